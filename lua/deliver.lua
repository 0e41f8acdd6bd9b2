#!lua
-- Delivers messages, in their order, to the queues that their topics match and to everyone
-- listening: all, or nothing. One whose key was delivered before, and still holds, is left out.
--
-- Returns the id of the first message, which the others follow, then for each how many heard it, or,
-- where its key holds, what is kept of the first with that key, as note() has it.
-- Errors: STALE when the client matched with other routes than these, and there is something to
-- deliver: after a try that was carried out there is not; REFUSED, with what refusal() says.
-- Parts: life, intake.
local version = ARGV[2] -- of the routes that the client matched with
local channel = ARGV[3] -- what stands before a topic to make it a channel
-- From ARGV[4] on, for each message: facet, topic, key and headers and body, how, as manner() has it.

local configured, stale, fresh = false, (redis.call("HGET", routes, ":version") or "0") ~= version
local id = tonumber(redis.call("GET", seq)) or 0
local queues, manners, payloads, keys, reply = {}, {}, {}, {}, { id + 1 }
for i = 4, #ARGV, 4 do
  local facet, topic, body, text = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local how = manners[text] or manner(text, queues)
  manners[text], id = how, id + 1
  stale, configured = stale or how.closed, configured or how.configured
  local first = how.k and seldom().note(keys, facet, body:sub(1, how.k), how, id)
  body = how.k and body:sub(how.k + 1) or body
  reply[#reply + 1], payloads[#payloads + 1] = first or 0, false
  if not first then
    fresh = true
    payloads[#payloads] = (how.h or body:byte() == 0) and seldom().frame(how, body) or body
    local middle = how.middles[topic]
      or string.format(" 0 %.0f %d%s ", now, #topic, how.more) .. topic
    how.middles[topic] = middle
    local failed = pile(how, facet, string.format("%d", id) .. middle .. body)
    if failed then
      return failed
    end
  end
end
local refused = stale and fresh and "STALE the routes have changed: load them and match again"
  or configured and seldom().refusal(queues, manners, payloads)
if refused then
  return redis.error_reply(refused)
end

local done, failed = pcall(function()
  for _, q in pairs(queues) do
    push(q)
  end
  redis.call("INCRBY", seq, #payloads)
  for i = 4, #ARGV, 4 do
    local payload = payloads[i / 4]
    local heard = payload and redis.call("PUBLISH", channel .. ARGV[i + 1], payload)
    reply[i / 4 + 1] = heard or reply[i / 4 + 1]
  end
  if configured or next(keys) then
    seldom().finish(queues, keys, reply)
  end
  for _, q in pairs(queues) do
    close(q)
  end
end)
return done and reply or seldom().undo(queues, keys, failed)
