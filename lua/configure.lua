#!lua flags=allow-oom
-- Sets the weight of a facet, or whether it, or its queue, is paused.
--
-- What a facet owes to the others, or they to it, is scaled with its weight. One that is paused
-- keeps its turn in parked. It may run at maxmemory: what is resumed can be drained.
-- Returns 1.
-- Errors: NOQUEUE when the queue is being destroyed, or, for a weight, holds nothing and is not
-- registered.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for the queue itself
local weight = tonumber(ARGV[4]) -- 0.001 to 1000; "" leaves it as it is
local paused = ARGV[5] -- 1 for paused, 0 for not; "" leaves it as it is

local q = open(1)
q.aside = redis.call("ZCARD", q.parked)
local none = (weight or q.closed) and missing(q, name)
if none then
  return none
end
if weight then
  local scale = (tonumber(redis.call("HGET", q.weights, facet)) or 1) / weight
  if weight == 1 then
    redis.call("HDEL", q.weights, facet)
  else
    redis.call("HSET", q.weights, facet, weight)
  end
  for _, set in ipairs({ q.ready, q.parked, q.idle }) do
    local turn = tonumber(redis.call("ZSCORE", set, facet))
    if turn and turn > q.floor then
      redis.call("ZADD", set, q.floor + (turn - q.floor) * scale, facet)
    end
  end
end
if paused == "1" then
  redis.call("SADD", q.pauses, facet)
  local turn = redis.call("ZSCORE", q.ready, facet)
  if turn then
    redis.call("ZADD", q.parked, turn, facet)
    redis.call("ZREM", q.ready, facet)
    q.facets, q.aside = q.facets - 1, q.aside + 1
    if tonumber(turn) < q.floor then
      q.early = math.min(q.early + 1, q.facets) -- It gives back its place at the front.
    end
  end
  q.paused, q.moved = q.paused or facet == "", true
elseif paused == "0" then
  redis.call("SREM", q.pauses, facet)
  if redis.call("ZSCORE", q.parked, facet) then
    arrive(q, { facet })
  end
  q.paused, q.moved = q.paused and facet ~= "", true
end
close(q)
return 1
