#!lua flags=allow-oom
-- Gives leased messages that are still the caller's back to the front of their facets, which are not
-- served for a time. That is no attempt.
--
-- Returns as settle().
-- Errors: of a single one, that of the key that cannot take its message, which stays leased.
-- Parts: park, life, settle, give_back.
local length = tonumber(ARGV[2]) -- from now on, ms
-- From ARGV[3] on: the leases, as settle() has them.

return give_back(3, function()
  return { counted = 0 }
end, function(q, facet)
  q.holding = q.holding or {}
  if not q.holding[facet] then
    local before = tonumber(redis.call("ZSCORE", q.timers, "h" .. facet))
    q.holding[facet] = math.max(now + length, before or 0)
    add(q, "timed", q.holding[facet], "h" .. facet)
    if not before then
      add(q, "commands", { "HINCRBY", q.clock, "holds", 1 })
    end
    q.holds = 1
    park(q, facet)
  end
end)
