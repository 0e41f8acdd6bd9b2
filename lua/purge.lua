#!lua flags=allow-oom
-- Drops what waits of a facet, and what of it is delayed. What is leased stays leased, what is dead
-- stays dead.
--
-- Returns how many messages.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: drain.
local name = ARGV[2] -- of the queue
local facet = ARGV[3]

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
redis.call("ZCARD", q.timers)
local waiting, delayed = redis.call("LLEN", q.list .. facet), redis.call("ZCARD", q.delays .. facet)
drain(q, facet)
q.waiting = q.waiting - waiting
add(q, "commands", { "HINCRBY", q.clock, "delayed", 0 - delayed })
add(q, "commands", { "HINCRBY", q.clock, "purged", waiting + delayed })
add(q, "untimed", "s" .. facet)
q.moved = true
redis.call("UNLINK", q.list .. facet, q.delays .. facet)
close(q)
return waiting + delayed
