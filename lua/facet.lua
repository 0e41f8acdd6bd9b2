#!lua flags=no-writes
-- Looks at facets of a queue, until it has read MOST_BYTES: at least one.
--
-- Returns for each of the first ones: { messages waiting, leased, delayed, dead }; { its turn or "", its
-- place among the ready ones or -1, the age of its foremost message in ms or -1, whether it is ready
-- (1), parked (2), in debt (3) or none of them (0) }; { its gate, as gate() has it, or 0, until when in
-- ms, or -1, whether its queue is paused, its settings, those of the queue among them, as configure.lua
-- has them }.
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
  local set, texts = settings(q, { facet })[1], {}
  for option, value in pairs(set) do
    texts[#texts + 1] = option .. "=" .. string.format("%.17g", value)
  end
  local closed, opens = gate(q, facet, set)
  local leased = tonumber(redis.call("HGET", q.held, facet)) or 0
  local delayed, dead =
    redis.call("ZCARD", q.delays .. facet), redis.call("ZCARD", q.died_of .. facet)
  local place = redis.call("ZRANK", q.ready, facet) or -1
  local age = since and math.max(0, now - since) or -1
  local until_ms, paused = opens and math.ceil(opens) or -1, q.paused and 1 or 0
  reply[#reply + 1] = {
    { waiting, leased, delayed, dead },
    { turn, place, age, state },
    { closed or 0, until_ms, paused, table.concat(texts, " ") },
  }
  i, bytes = i + 1, bytes + #first
end
return reply
