#!lua flags=allow-oom
-- Lets leases that are still the caller's end later, or sooner: a time from now.
--
-- Returns as settle().
local length = tonumber(ARGV[2]) -- of the lease from now on, ms
-- From ARGV[3] on: the leases, as settle() has them.

return settle(3, function(q, lease, id, record)
  local of = q.leases[lease]
  if of.size > 1 then
    -- Others of its lease keep their time: it goes on apart from them.
    local apart = lease .. "/" .. id
    redis.call("HSET", q.lease .. apart, id, record)
    redis.call("HDEL", q.lease .. lease, id)
    of.size, lease = of.size - 1, apart
  end
  redis.call("ZADD", q.timers, now + length, lease)
end)
