#!lua flags=no-writes
-- Looks at facets of a queue, until it has read MOST_BYTES: at least one.
--
-- Returns for each of the first ones: messages waiting and leased, its weight, its turn or "", the
-- age of its foremost message in ms or -1, whether it is ready (1), parked (2), in debt (3) or none
-- of them (0), and whether it is paused.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue
-- From ARGV[3] on: the facets.

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local reply, bytes = {}, 0
local i = 3
while i <= #ARGV and bytes < MOST_BYTES do
  local facet = ARGV[i]
  -- A key that is no list holds no message.
  local waiting = tonumber(redis.pcall("LLEN", q.list .. facet)) or 0
  local first = waiting > 0 and redis.call("LINDEX", q.list .. facet, 0) or ""
  local since = tonumber(first:match("^%d+ %d+ (%d+) "))
  local turn, state = "", 0
  for n, set in ipairs({ q.ready, q.parked, q.idle }) do
    local found = redis.call("ZSCORE", set, facet)
    if found and (n < 3 or tonumber(found) > q.floor) then
      turn, state = string.format("%.17g", found / TURN), n
    end
  end
  reply[#reply + 1] = {
    waiting,
    tonumber(redis.call("HGET", q.held, facet)) or 0,
    redis.call("HGET", q.weights, facet) or "1",
    turn,
    since and math.max(0, now - since) or -1,
    state,
    redis.call("SISMEMBER", q.pauses, facet),
  }
  i, bytes = i + 1, bytes + #first
end
return reply
