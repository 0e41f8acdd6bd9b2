#!lua flags=no-writes
-- Lists dead letters by pages: those of a facet with the oldest first, those of all in no order. One
-- that comes or goes meanwhile may be listed or not.
--
-- Returns where the next page begins, "" after the last one, then id and dead letter in turn.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local name = ARGV[2] -- of the queue
local facet = ARGV[3] -- "" for all
local from = ARGV[4] -- of all: a cursor, of a facet: "<died at, ms> <id>" of the last one; "" to begin
local most = tonumber(ARGV[5]) -- letters, about

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
local page, bytes = {}, 0
if facet == "" then
  local cursor = from == "" and "0" or from
  repeat
    local some = redis.call("HSCAN", q.letters, cursor, "COUNT", 10)
    cursor = some[1]
    for i = 1, #some[2], 2 do
      page[#page + 1], page[#page + 2] = some[2][i], some[2][i + 1]
      bytes = bytes + #some[2][i + 1]
    end
  until cursor == "0" or #page >= 2 * most or bytes >= MOST_BYTES
  return { cursor == "0" and "" or cursor, unpack(page) }
end
local key = q.died_of .. facet
local died, id = from:match("^(%d+) (%d+)$")
local at = id and redis.call("ZRANK", key, id)
-- Where the last one is gone, those that died when it did are listed again.
at = at and at + 1 or died and redis.call("ZCOUNT", key, "-inf", "(" .. died) or 0
local following = ""
for i = at, at + most do
  local one = redis.call("ZRANGE", key, i, i, "WITHSCORES")
  if not one[1] then
    return { "", unpack(page) }
  elseif #page >= 2 * most or bytes >= MOST_BYTES then
    return { following, unpack(page) }
  end
  local letter = redis.call("HGET", q.letters, one[1]) or ""
  page[#page + 1], page[#page + 2] = one[1], letter
  bytes, following = bytes + #letter, one[2] .. " " .. one[1]
end
return { following, unpack(page) }
