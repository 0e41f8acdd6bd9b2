#!lua flags=allow-oom
-- Gives leased messages that are still the caller's back, to be served again after the backoff of
-- their queue: the longer, the more attempts they had. Or puts them to the dead letters at once.
--
-- Returns as settle().
-- Errors: of a single one, that of the key that cannot take its message, which stays leased.
-- Parts: life, settle, give_back.
local reason = ARGV[2] -- why it failed, as a dead letter says it
local share = tonumber(ARGV[3]) -- drawn from 0 to 1: of the second half of the backoff
local last = ARGV[4] == "1" -- whether they are given up, whatever attempts they have left
-- From ARGV[5] on: the leases, as settle() has them.

return give_back(5, function(q)
  local first, longest = q.own.backoff_first or 1000, q.own.backoff_longest or 600000
  return {
    counted = 1,
    reason = reason,
    last = last,
    after = function(attempts)
      local wait = math.min(longest, first * 2 ^ math.min(attempts - 1, 60))
      return math.max(1, math.floor(wait / 2 + wait / 2 * share))
    end,
  }
end)
