#!lua flags=allow-oom
-- Ends leases that are still the caller's, and forgets their messages.
--
-- Returns as settle().
-- Parts: settle.
local cost = tonumber(ARGV[2]) -- that each of them had; "" for what it was delivered with
-- From ARGV[3] on: the leases, as settle() has them.

return settle(3, function(q, lease, id, facet)
  local read = 0
  if cost then -- The turn of the facet moves by what was charged too little, or too much.
    local message = redis.call("HGET", q.lease .. lease, "m" .. id) or ""
    local charged = tonumber(message:match("^%d+ %d+ %d+ %d+[^ ]-,c([^, ]+)")) or 1
    q.charges, read = q.charges or {}, #message
    q.charges[facet] = (q.charges[facet] or 0) + cost - charged
  end
  gone(q, lease, id, facet)
  q.acked = q.acked + 1
  return read
end)
