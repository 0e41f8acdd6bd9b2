#!lua flags=no-writes
-- Counts what a queue has, and what it had.
--
-- Returns messages waiting, leased, delayed and dead, facets ready, parked and in debt, whether the
-- queue is paused; and from its beginning what FIELDS count, in their order.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local debtors = redis.call("ZCOUNT", q.idle, "(" .. string.format("%.17g", q.floor), "+inf")
local had = {}
for n = 8, #FIELDS do
  had[#had + 1] = q[FIELDS[n]]
end
local leased, dead = tonumber(redis.call("HGET", q.held, "")) or 0, redis.call("HLEN", q.letters)
local paused = q.paused and 1 or 0
return { q.waiting, leased, q.delayed, dead, q.facets, q.aside, debtors, paused, unpack(had) }
