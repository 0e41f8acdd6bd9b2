-- intake.lua: what a delivery asks before it writes anything, and what it writes.

-- Reads how a message is delivered: "<place> <place> ..[,<letter><number> ..]", and opens its queues.
-- The letters are those of a stored message, but for: x: in how many ms it expires. d: in how many ms
-- it is due; a: at what time, ms. k: bytes of its key; w: for how many ms that holds.
local function manner(text, queues)
  local comma = text:find(",", 1, true)
  local places, how = comma and text:sub(1, comma - 1) or text, { more = "", middles = {} }
  for place in places:gmatch("%d+") do
    local q = queues[place]
    if not q then
      q = open(place)
      -- What each facet gets; the facets in turn, and how many of them have it. How many more of each may
      -- wait, and how many wait then, where that counts.
      q.piles, q.named, q.written, q.place, queues[place] = {}, {}, 0, place, q
      q.rooms, q.lengths = {}, q.configured and {}
    end
    how[#how + 1], how.closed = q, how.closed or q.closed
    how.configured = how.configured or q.configured
  end
  if not comma then
    return how
  end
  for letter, value in text:gmatch(",(%a)([^,]+)") do
    how[letter] = tonumber(value)
    if letter == "c" or letter == "h" then
      how.more = how.more .. "," .. letter .. value
    end
  end
  if how.x then
    how.more = how.more .. string.format(",x%.0f", now + how.x)
  end
  local at = how.d and now + how.d or how.a
  if at and at > now then
    how.at, how.more = at, how.more .. string.format(",d%.0f", at)
  end
  return how
end

-- Piles a message up for its queues, or delays it there. Returns nil, or the error that says why it
-- cannot be delayed.
local function pile(how, facet, message)
  for i = 1, #how do
    local q = how[i]
    if how.at then
      q.delivered = q.delivered + 1
      redis.call("ZCARD", q.timers)
      local failed = life().delay(q, facet, message, how.at)
      if failed then
        return failed
      end
    else
      local pile = q.piles[facet]
      if pile then
        pile[#pile + 1] = message
      else
        q.named[#q.named + 1], q.piles[facet] = facet, { message }
      end
      if how.c or how.x then
        q.special = 1
      end
    end
  end
end

-- Writes what was piled up.
local function push(q)
  local coming, lengths = {}, q.lengths
  q.coming = coming
  for n, facet in ipairs(q.named) do
    local pile = q.piles[facet]
    local length = redis.call("RPUSH", q.list .. facet, unpack(pile))
    coming[#coming + 1] = length == #pile and facet or nil
    q.written = n
    if lengths then
      lengths[n] = length
    end
    q.waiting, q.delivered = q.waiting + #pile, q.delivered + #pile
  end
end

-- Makes what follows. Most deliveries need none of it, and do not pay for it.
local seldoms
local function seldom()
  if seldoms then
    return seldoms
  end

  -- What listeners get where there are headers, or the body begins with a zero byte, so that they can
  -- tell: a zero byte, "<bytes of headers> <headers>", and the body.
  local function frame(how, body)
    return "\0" .. (how.h or 0) .. " " .. body
  end

  -- Returns what is kept of the delivery that had the key of this one, if that still holds: "<until, ms>
  -- <id> <how many heard it> <queues>"; or, of one in this call, its key. Otherwise notes that this is
  -- the first: keep() keeps it.
  local function note(keys, facet, key, how, id)
    key = receipts .. #facet .. " " .. facet .. key
    if keys[key] then
      return key
    end
    local kept = redis.call("GET", key)
    if kept and tonumber(kept:match("^%d+")) > now then
      return kept
    end
    local names = {}
    for _, q in ipairs(how) do
      names[#names + 1] = q.clock:match(":([^:]*):clock$")
    end
    keys[key] = { id = id, window = how.w, queues = table.concat(names, " ") }
  end

  -- Keeps what became of those that have keys, for as long as these hold.
  local function keep(keys, reply)
    for key, of in pairs(keys) do
      local heard = reply[of.id - reply[1] + 2]
      of.text = string.format("%.0f %.0f %d ", now + of.window, of.id, heard) .. of.queues
      redis.call("SET", key, of.text, "PX", of.window)
    end
    for n = 2, next(keys) and #reply or 1 do
      local of = keys[reply[n]]
      reply[n] = of and of.text or reply[n]
    end
  end

  -- Returns which messages are refused, if any is, as if they came one after the other: for each its
  -- number, the place of the queue, and 1 where the intake is paused, 2 where as many wait as may, and
  -- how many that are.
  local function refusal(queues, manners, payloads)
    local text = {}
    for n, payload in ipairs(payloads) do
      local facet, refused = ARGV[4 * n], false
      local how = payload and manners[ARGV[4 * n + 3]] or NONE
      for i = 1, #how do
        local q = how[i]
        local set = q.configured and settings(q, { facet })[1] or NONE
        local room, why = q.rooms[facet], set.intake == 0 and 1
        if set.most_waiting and q.own.drop_oldest ~= 1 and not how.at then
          room = room or set.most_waiting - redis.call("LLEN", q.list .. facet)
          q.rooms[facet], why = room, why or room < 1 and 2
        end
        if why then
          local said = string.format("%d %s %d %d", n, q.place, why, set.most_waiting or 0)
          text[#text + 1], q.refused, refused = said, (q.refused or 0) + 1, true
        end
      end
      for i = 1, refused and 0 or #how do
        local rooms = how[i].rooms
        rooms[facet] = rooms[facet] and rooms[facet] - (how.at and 0 or 1)
      end
    end
    for _, q in pairs(queues) do
      if q.refused then
        redis.call("HINCRBY", q.clock, "refused", q.refused)
      end
    end
    return #text > 0 and "REFUSED " .. table.concat(text, " ")
  end

  -- Takes it off again, all or nothing, and returns the error that made it so.
  local function undo(queues, keys, failed)
    for _, q in pairs(queues) do
      for n = 1, q.written do
        redis.call("LTRIM", q.list .. q.named[n], 0, -#q.piles[q.named[n]] - 1)
      end
    end
    for key, of in pairs(keys) do
      if of.text then
        redis.call("DEL", key)
      end
    end
    return redis.error_reply(failed.err or failed)
  end

  -- Where more wait than may, takes the oldest into the dead letters: at most 100, and as many as came.
  local function spill(q)
    for n = 1, q.own.drop_oldest == 1 and q.written or 0 do
      local facet = q.named[n]
      local most, length = settings(q, { facet })[1].most_waiting, q.lengths[n]
      local over = most and math.min(length - most, #q.piles[facet] + 100) or 0
      for _, message in ipairs(over > 0 and redis.call("LPOP", q.list .. facet, over) or NONE) do
        if life().bury(q, facet, message, 4) then
          add(q, "commands", { "HINCRBY", q.clock, "dropped", 1 })
        end
        q.waiting = q.waiting - 1
      end
    end
  end

  -- Does what is left to do when all is written and published.
  local function finish(queues, keys, reply)
    keep(keys, reply)
    for _, q in pairs(queues) do
      spill(q)
    end
  end

  seldoms = { frame = frame, note = note, refusal = refusal, undo = undo, finish = finish }
  return seldoms
end
