#!lua flags=allow-oom
-- Drops one message of a facet that waits or is delayed: looks at a part of them at each call, the last
-- ones first, so that what is taken meanwhile makes it miss none; and at the delayed ones first, since
-- they come to wait.
--
-- Returns 1 when it is dropped, 0 when it is not there; otherwise -1, and ARGV[5] to ARGV[7] of the next
-- call.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
-- Parts: drain.
local name = ARGV[2] -- of the queue
local facet = ARGV[3]
local id = ARGV[4]
local delayed = ARGV[5] -- 1 to begin with the delayed messages, 0 with those that wait
local from = tonumber(ARGV[6]) -- how many were looked at before, from the end
local before = tonumber(ARGV[7]) -- how many had been dropped by then: what others drop moves the rest up
local most = tonumber(ARGV[8]) -- messages, about

local q = open(1)
local none = missing(q, name)
if none then
  return none
end
redis.call("ZCARD", q.timers)
local purged = tonumber(redis.call("HGET", q.clock, "purged")) or 0
local bytes, looked = 0, 0
from = math.max(0, from - math.max(0, purged - before))
while looked < most and bytes < MOST_BYTES do
  local key, last = (delayed == "1" and q.delays or q.list) .. facet, -from - looked - 1
  local page = redis.call(delayed == "1" and "ZRANGE" or "LRANGE", key, last - 7, last)
  for n = #page, 1, -1 do
    local message = page[n]
    bytes = bytes + #message
    if message:match("^0*(%d+) ") == id then
      if delayed == "1" then
        redis.call("ZREM", key, message)
        local due_next = redis.call("ZRANGE", key, 0, 0, "WITHSCORES")[2]
        q.timed, q.untimed = due_next and { due_next, "s" .. facet }, { "s" .. facet }
        add(q, "commands", { "HINCRBY", q.clock, "delayed", -1 })
      else
        local near = 2 * (from + looked) > redis.call("LLEN", key)
        redis.call("LREM", key, near and 1 or -1, message)
        q.waiting = q.waiting - 1
        if redis.call("LLEN", key) == 0 then
          drain(q, facet)
        end
      end
      add(q, "commands", { "HINCRBY", q.clock, "purged", 1 })
      q.moved = true
      close(q)
      return { 1 }
    end
  end
  looked = looked + 8
  if #page < 8 and delayed == "0" then
    return { 0 }
  elseif #page < 8 then
    delayed, from = "0", -looked
  end
end
return { -1, tonumber(delayed), from + looked, purged }
