#!lua flags=allow-oom
-- Sets the settings of a facet, or of its queue, and decides anew which facets can be served: of a queue
-- page by page, after the first call.
--
-- What a facet owes to the others, or they to it, is scaled with its weight. It may run at maxmemory:
-- what is paused must come to be drained.
-- Returns 0 when they are not what the caller has read; otherwise 1, and where the next page of facets
-- begins, "0" after the last one: the parked ones, and where a limit is another one, the ready ones.
-- Errors: NOQUEUE when the queue holds nothing and is not registered, or is being destroyed.
-- Parts: park.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for the queue itself
local must = ARGV[4] -- 1 where the queue has to be there, or 0
local known = ARGV[5] -- the settings as the caller has read them: "<name>=<number> .."
local wanted = ARGV[6] -- the settings as they shall be
local cursor = ARGV[7] -- a cursor in the parked facets (p), then in the ready ones (r); "" to begin

local q = open(1)
local none = (must == "1" or q.closed) and missing(q, name)
if none then
  return none
end
local stored = redis.call("HGET", q.settings, facet) or ""
if cursor == "" and stored ~= known then
  return { 0 }
end
wanted = cursor == "" and wanted or stored -- What others have set meanwhile holds.
redis.call("ZCARD", q.timers)
local before, dead = settings(q, { facet })[1].weight or 1, redis.call("HLEN", q.letters)
local sets = wanted ~= "" and { "HSET", q.settings, facet, wanted } or { "HDEL", q.settings, facet }
redis.call(unpack(sets))
q.configured, q.known = true, nil
if facet == "" then
  local old, changed = options(known), known == wanted
  q.own = options(wanted)
  q.paused, q.moved = q.own.stopped == 1, true
  if q.own.most_dead ~= old.most_dead or q.own.dead_for ~= old.dead_for then
    local bound = dead > 0 and (q.own.most_dead or q.own.dead_for)
    redis.call(unpack(bound and { "ZADD", q.timers, "LT", now, "a" } or { "ZREM", q.timers, "a" }))
  end
  for _, limit in ipairs({ "most_leased", "rate", "period", "burst" }) do
    changed = changed or q.own[limit] ~= old[limit]
  end
  -- A page that is asked for is decided on whatever has changed: somebody may have broken off before.
  local following = cursor ~= "" and decide(q, cursor) or "p0"
  close(q)
  return { 1, following == "r0" and not changed and "0" or following }
end
local scale = before / (settings(q, { facet })[1].weight or 1)
for _, key in ipairs(scale ~= 1 and { q.ready, q.parked, q.idle } or {}) do
  local turn = tonumber(redis.call("ZSCORE", key, facet))
  if turn and turn > q.floor then
    redis.call("ZADD", key, q.floor + (turn - q.floor) * scale, facet)
  end
end
park(q, facet)
comes(q, facet, "freed")
close(q)
return { 1, "0" }
