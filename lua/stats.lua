#!lua flags=no-writes
-- Counts what a queue has, and what it had.
--
-- Returns waiting messages, leased ones, facets ready, parked and in debt, whether the queue is
-- paused; and from its beginning messages delivered, served, acked, come back.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local debtors = redis.call("ZCOUNT", q.idle, "(" .. string.format("%.17g", q.floor), "+inf")
local paused = q.paused and 1 or 0
local had = { q.delivered, q.served, q.acked, q.came_back }
local leased = tonumber(redis.call("HGET", q.held, "")) or 0
return { q.waiting, leased, q.facets, q.aside, debtors, paused, unpack(had) }
