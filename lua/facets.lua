#!lua flags=no-writes
-- Lists the facets of a queue by pages: those that have messages waiting, leased, delayed or dead, that
-- are in debt or held, or that have settings. One that changes meanwhile may be listed twice, or not at
-- all.
--
-- Returns the set and the cursor of the next page, set 0 after the last one; then the facets.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue
local at = tonumber(ARGV[3]) -- the set to go on with, 1 the first
local cursor = ARGV[4] -- in that set, "0" the first

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
-- What lists a page, of which set, how many values a member has there, and what finds a facet there.
local sets = {
  { "ZSCAN", q.ready, 2, "ZSCORE" },
  { "ZSCAN", q.parked, 2, "ZSCORE" },
  { "ZSCAN", q.idle, 2, "ZSCORE" },
  { "HSCAN", q.held, 2, "HGET" },
  { "HSCAN", q.settings, 2, "HGET" },
  { "ZSCAN", q.dead, 2, "ZSCORE" },
  { "ZSCAN", q.timers, 2 },
}
local set = sets[at]
local page = redis.call(set[1], set[2], cursor, "COUNT", 100)
local following = page[1] ~= "0" and at or (at + 1) % (#sets + 1)
local reply = { following, page[1] }
for i = 1, #page[2], set[3] do
  local facet, listed = page[2][i], false
  if set[2] == q.timers then -- A facet that has delayed messages (s), or is held (h).
    local kind = facet:sub(1, 1)
    facet = (kind == "s" or kind == "h") and facet:sub(2) or ""
    listed = kind == "h" and redis.call("ZSCORE", q.timers, "s" .. facet)
  end
  for before = 1, at - 1 do
    local found = redis.call(sets[before][4], sets[before][2], facet)
    listed = listed or found
  end
  if facet ~= "" and not listed then
    reply[#reply + 1] = facet
  end
end
return reply
