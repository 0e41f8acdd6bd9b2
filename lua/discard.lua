#!lua flags=allow-oom
-- Drops dead letters: one, those of a facet, or all, a part of them at each call.
--
-- Returns how many.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: life, letters.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for all
local id = ARGV[4] -- "" for all
local most = tonumber(ARGV[5]) -- letters

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
return letters_of(q, facet, id, most, function()
  add(q, "commands", { "HINCRBY", q.clock, "purged", 1 })
  return true
end)
