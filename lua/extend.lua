#!lua flags=allow-oom
-- Lets leases that are still the caller's end later, or sooner: a time from now.
--
-- Returns as settle().
-- Parts: settle.
local length = tonumber(ARGV[2]) -- of the lease from now on, ms
-- From ARGV[3] on: the leases, as settle() has them.

return settle(3, function(q, lease, id, facet)
  local of, bytes = q.leases[lease], 0
  if of.size > 1 then
    -- Others of its lease keep their time: it goes on apart from them.
    local apart = lease .. "/" .. id
    local message = redis.call("HGET", q.lease .. lease, "m" .. id) or ""
    redis.call("HSET", q.lease .. apart, id, facet, "m" .. id, message)
    redis.call("HDEL", q.lease .. lease, id, "m" .. id)
    of.size, lease, bytes = of.size - 1, apart, #message
  end
  redis.call("ZADD", q.timers, now + length, lease)
  return bytes
end)
