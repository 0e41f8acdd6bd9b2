#!lua flags=allow-oom
-- Drops dead letters: one, those of a facet, or all, a part of them at each call.
--
-- Returns how many; how many it has taken away, 0 at the end; and by when they had died, ms.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: life, letters.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for all
local id = ARGV[4] -- "" for all
local most = tonumber(ARGV[5]) -- letters
local by = tonumber(ARGV[6]) -- ms: those that died later stay; 0 for now

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
return letters_of(q, facet, id, most, by, function()
  add(q, "commands", { "HINCRBY", q.clock, "purged", 1 })
  return true
end)
