#!lua flags=allow-oom
-- Examines a part of a queue: what is broken there is said, and mended if that is asked for.
--
-- Returns where the next page begins, "" after the last one; what is broken, each as examine() says it;
-- and what is there, to be counted: of facets their name, messages waiting and delayed, and how many are
-- said to be leased; of leases facet and messages in turn; of timers their kind.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: park, drain, doctor.
local name = ARGV[2] -- of the queue
local mends = ARGV[3] -- 1 to mend what is broken, 0 only to say it
local what = ARGV[4] -- "facet", "lease": those that are named; "timer", "letter": a page of them;
-- "count": to add to what is counted; "all": facets, leases and timers of a queue that has few
local from = ARGV[5] -- where the page begins, "0" for the first one
-- From ARGV[6] on: names; to count, each field ("waiting", "delayed", "holds", or "held" and a facet)
-- followed by what is added to it.

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
for _, zset in ipairs({ q.timers, q.idle, q.dead }) do
  redis.call("ZCARD", zset)
end
local broken, there, following = {}, {}, "0"
local patient = examine(q, function(...)
  broken[#broken + 1] = { ... }
end)
local set = what == "timer" and q.timers or q.letters
if what == "timer" or what == "letter" then
  local page = redis.call(what == "timer" and "ZSCAN" or "HSCAN", set, from, "COUNT", 50)
  following = page[1]
  for i = 1, #page[2], 2 do
    there[#there + 1] = patient[what](page[2][i], page[2][i + 1])
  end
elseif what == "all" then
  there = patient.all({ unpack(ARGV, 6) })
end
for i = 6, #ARGV, what == "count" and 2 or 1 do
  local one = ARGV[i]
  if what == "facet" or what == "lease" then
    there[#there + 1] = patient[what](one)
  elseif what == "count" and one == "waiting" then
    q.waiting = q.waiting + ARGV[i + 1]
  elseif what == "count" and one:sub(1, 4) == "held" then
    local held = (tonumber(redis.call("HGET", q.held, one:sub(5))) or 0) + ARGV[i + 1]
    local command = held > 0 and { "HSET", q.held, one:sub(5), held }
    add(q, "commands", command or { "HDEL", q.held, one:sub(5) })
  elseif what == "count" then
    add(q, "commands", { "HINCRBY", q.clock, one, ARGV[i + 1] })
  end
end
if mends == "1" then
  q.moved = true
  close(q)
end
return { following == "0" and "" or following, broken, there }
