#!lua flags=allow-oom
-- Gives leased messages that are still the caller's back: to the front of their facets, or, after a
-- time, to their end.
--
-- Returns as settle().
-- Errors: of a single one, that of the key that cannot take its message, which stays leased.
-- Parts: life, settle, give_back.
local counted = tonumber(ARGV[2]) -- 1 when the attempt counts, 0 when nobody has seen the message
local after = tonumber(ARGV[3]) -- ms; "" for next of its facet
-- From ARGV[4] on: the leases, as settle() has them.

return give_back(4, function()
  return {
    counted = counted,
    after = after and function()
      return after
    end,
  }
end)
