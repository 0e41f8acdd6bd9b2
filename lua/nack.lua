#!lua flags=allow-oom
-- Gives leased messages that are still the caller's back: to the front of their facets, or, after a
-- time, to their end.
--
-- Returns as settle().
-- Errors: that of the key when it cannot take its message back, which stays leased.
-- Parts: life, settle.
local counted = tonumber(ARGV[2]) -- 1 when the attempt counts, 0 when nobody has seen the message
local after = tonumber(ARGV[3]) -- ms; "" for next of its facet
-- From ARGV[4] on: the leases, as settle() has them.

local how = {
  counted = counted,
  after = after and function()
    return after
  end,
}
local refused
local release = life().release
local settled = settle(4, function(q, lease, id, facet)
  local message = redis.call("HGET", q.lease .. lease, "m" .. id)
  refused = release(q, lease, id, facet, message, how) or refused
  return #(message or "")
end)
return refused or settled
