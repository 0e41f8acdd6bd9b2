#!lua
-- Sets the weight of a facet. What it owes to the others, or they to it, is scaled with it.
--
-- Returns 1.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue
local facet = ARGV[3]
local weight = tonumber(ARGV[4]) -- 0.001 to 1000

local q = open(1)
if q.facets + q.held == 0 and redis.call("HEXISTS", routes, name) == 0 then
  return redis.error_reply("NOQUEUE there is no queue " .. name)
end
local scale = (tonumber(redis.call("HGET", q.weights, facet)) or 1) / weight
if weight == 1 then
  redis.call("HDEL", q.weights, facet)
else
  redis.call("HSET", q.weights, facet, weight)
end
for _, set in ipairs({ q.ready, q.idle }) do
  local turn = tonumber(redis.call("ZSCORE", set, facet))
  if turn and turn > q.floor then
    redis.call("ZADD", set, q.floor + (turn - q.floor) * scale, facet)
  end
end
return 1
