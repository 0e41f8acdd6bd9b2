#!lua flags=no-writes
-- Counts what a queue has, and what it had.
--
-- Returns messages waiting, leased, delayed and dead, facets held, ready, parked and in debt, whether
-- the queue is paused; and from its beginning messages delivered, served, acked, come back, refused, expired,
-- died, dropped and purged.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local debtors = redis.call("ZCOUNT", q.idle, "(" .. string.format("%.17g", q.floor), "+inf")
local leased, dead = tonumber(redis.call("HGET", q.held, "")) or 0, redis.call("HLEN", q.letters)
local others = { "delayed", "holds", "refused", "expired", "died", "dropped", "purged" }
local rare = redis.call("HMGET", q.clock, unpack(others))
local reply = { q.waiting, leased, tonumber(rare[1]) or 0, dead, tonumber(rare[2]) or 0 }
for _, value in ipairs({ q.facets, q.aside, debtors, q.paused and 1 or 0 }) do
  reply[#reply + 1] = value
end
for _, value in ipairs({ q.delivered, q.served, q.acked, q.came_back }) do
  reply[#reply + 1] = value
end
for n = 3, #others do
  reply[#reply + 1] = tonumber(rare[n]) or 0
end
return reply
