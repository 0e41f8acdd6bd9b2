#!lua
-- Delivers messages, in their order, to the queues that their topics match and to everyone
-- listening: all, or nothing.
--
-- Returns the id of the first message, which the others follow one by one, then how many listeners
-- heard each.
-- Errors: STALE when the routes are no longer those that the client matched with.
local version = ARGV[2] -- of the routes that the client matched with
local channel = ARGV[3] -- what stands before a topic to make it a channel
-- From ARGV[4] on, for each message: facet, topic, body, and its queues as their places among KEYS:
-- "1 3".

if (redis.call("HGET", routes, ":version") or "0") ~= version then
  return redis.error_reply("STALE the routes have changed: load them and match again")
end

local count = (#ARGV - 3) / 4
local first = (tonumber(redis.call("GET", seq)) or 0) + 1
local queues, piles = {}, {} -- a pile is what one facet gets on one queue

for i = 4, #ARGV, 4 do
  local facet, topic, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local head = string.format("%.0f 0 %.0f %d ", first + (i - 4) / 4, now, #topic)
  for n in ARGV[i + 3]:gmatch("%d+") do
    local q = queues[n] or open(n)
    if q.closed then
      return redis.error_reply("STALE a queue is being destroyed: load the routes and match again")
    end
    queues[n], q.piles = q, q.piles or {}
    q.delivered, q.waiting = q.delivered + 1, q.waiting + 1
    local pile = q.piles[facet]
    if not pile then
      pile = { q = q, facet = facet, waiting = redis.call("LLEN", q.list .. facet) }
      q.piles[facet], piles[#piles + 1] = pile, pile
    end
    pile[#pile + 1] = head .. topic .. body
  end
end

-- Nothing is written before this line, and what could be denied (by an ACL, by a value that is no
-- number) comes first.
redis.call("INCRBY", seq, count)
local reply = { first }
for i = 4, #ARGV, 4 do
  reply[#reply + 1] = redis.call("PUBLISH", channel .. ARGV[i + 1], ARGV[i + 2])
end
for _, pile in ipairs(piles) do
  redis.call("RPUSH", pile.q.list .. pile.facet, unpack(pile))
  if pile.waiting == 0 then
    arrive(pile.q, pile.facet)
  end
end
for _, q in pairs(queues) do
  close(q)
end
return reply
