#!lua
-- Delivers messages, in their order, to the queues that their topics match and to everyone
-- listening: all, or nothing.
--
-- Returns the id of the first message, which the others follow, then how many heard each.
-- Errors: STALE when the routes are no longer those that the client matched with.
local version = ARGV[2] -- of the routes that the client matched with
local channel = ARGV[3] -- what stands before a topic to make it a channel
-- From ARGV[4] on, for each message: facet, topic, body, its queues as places among KEYS: "1 3".

local stale = (redis.call("HGET", routes, ":version") or "0") ~= version
local id = tonumber(redis.call("GET", seq)) or 0
local queues, groups, middles, reply = {}, {}, {}, { id + 1 }
for i = 4, #ARGV, 4 do
  local facet, topic, places = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local group = groups[places] or {}
  for n in (groups[places] and "" or places):gmatch("%d+") do
    local q = queues[n] or open(n)
    -- What each facet gets; the facets in turn, and how many of them have it.
    q.piles, q.named, q.written, q.newcomers = q.piles or {}, q.named or {}, 0, {}
    queues[n], group[#group + 1], stale = q, q, stale or q.closed
  end
  groups[places], id = group, id + 1
  middles[topic] = middles[topic] or string.format(" 0 %.0f %d ", now, #topic) .. topic
  local message = string.format("%d", id) .. middles[topic] .. ARGV[i + 2]
  for n = 1, #group do
    local q = group[n]
    local pile = q.piles[facet] or {}
    q.named[#q.named + 1] = not q.piles[facet] and facet or nil
    q.piles[facet], pile[#pile + 1] = pile, message
  end
end
if stale then
  return redis.error_reply("STALE the routes have changed: load them and match again")
end

local done, failed = pcall(function()
  for _, q in pairs(queues) do
    for n, facet in ipairs(q.named) do
      local pile = q.piles[facet]
      local length = redis.call("RPUSH", q.list .. facet, unpack(pile))
      q.newcomers[#q.newcomers + 1] = length == #pile and facet or nil
      q.written, q.delivered, q.waiting = n, q.delivered + #pile, q.waiting + #pile
    end
  end
  redis.call("INCRBY", seq, (#ARGV - 3) / 4)
  for i = 4, #ARGV, 4 do
    reply[#reply + 1] = redis.call("PUBLISH", channel .. ARGV[i + 1], ARGV[i + 2])
  end
  for _, q in pairs(queues) do
    arrive(q, q.newcomers)
    close(q)
  end
end)
for _, q in pairs(done and {} or queues) do
  for n = 1, q.written do -- All, or nothing.
    redis.call("LTRIM", q.list .. q.named[n], 0, -#q.piles[q.named[n]] - 1)
  end
end
return done and reply or redis.error_reply(failed.err or failed)
