#!lua flags=allow-oom
-- Gives leased messages that are still the caller's back, to the front of their facets.
--
-- Returns as settle().
-- Errors: that of the list when it cannot take its message back, which stays leased.
local counted = tonumber(ARGV[2]) -- 1 when the attempt counts, 0 when nobody has seen the message
-- From ARGV[3] on: the leases, as settle() has them.

local refused
local settled = settle(3, function(q, lease, id, facet)
  local message = redis.call("HGET", q.lease .. lease, "m" .. id)
  refused = release(q, lease, id, facet, message, counted) or refused
  return #(message or "")
end)
return refused or settled
