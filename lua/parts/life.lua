-- life.lua: what becomes of a message that was not settled in time, was given back, or is due.

-- Makes what follows. Most calls need none of it, and do not pay for it.
local made
local function life()
  if made then
    return made
  end

  -- Reads a stored message; nothing, if it is none of fairlane's.
  local function split(message)
    local id, attempts, since, topic, more, at = message:match("^(%d+) (%d+) (%d+) (%d+)([^ ]*) ()")
    if not id then
      return nil
    end
    attempts = math.min(tonumber(attempts), 1e9)
    local m = { id = id, attempts = attempts, since = since, topic = topic, more = more }
    m.crashes, m.at = tonumber(more:match(",k(%d+)")) or 0, at
    return m
  end

  -- Writes it again: with these attempts and crashes, and the reason of its last failure, if there is
  -- a new one.
  local function join(m, message, reason)
    local more, rest = m.more, message:sub(m.at)
    if more:find(",k", 1, true) then
      more = more:gsub(",k%d+", "")
    end
    if m.crashes > 0 then
      more = more .. ",k" .. m.crashes
    end
    if reason then
      local before = m.topic + (tonumber(more:match(",h(%d+)")) or 0)
      local old = tonumber(more:match(",f(%d+)")) or 0
      more = more:gsub(",f%d+", "") .. ",f" .. #reason
      rest = rest:sub(1, before) .. reason .. rest:sub(before + old + 1)
    end
    return m.id .. " " .. m.attempts .. " " .. m.since .. " " .. m.topic .. more .. " " .. rest
  end

  -- Takes dead letters of a facet away.
  local function exhume(q, facet, ids)
    local key = q.died_of .. facet
    if #ids > 0 then
      redis.call("HDEL", q.letters, unpack(ids))
      redis.call("ZREM", key, unpack(ids))
    end
    local oldest = redis.call("ZRANGE", key, 0, 0, "WITHSCORES")
    if oldest[1] then
      redis.call("ZADD", q.dead, oldest[2], facet)
    elseif redis.call("ZREM", q.dead, facet) and redis.call("ZCARD", q.dead) == 0 then
      redis.call("ZREM", q.timers, "a")
    end
  end

  -- Drops dead letters, the oldest first, that are too many or too old: at most 100 a call.
  local function trim(q)
    local most, age = q.own.most_dead, q.own.dead_for
    local over = most and redis.call("HLEN", q.letters) - most or 0
    local oldest, died
    for n = 1, 101 do
      oldest, died = unpack(redis.call("ZRANGE", q.dead, 0, 0, "WITHSCORES"))
      died = tonumber(died)
      if not oldest or over <= 0 and not (age and died + age <= now) or n == 101 then
        break
      end
      local ids = redis.call("ZRANGE", q.died_of .. oldest, 0, 0)
      exhume(q, oldest, ids)
      over = over - #ids
      redis.call("HINCRBY", q.clock, "dropped", #ids)
    end
    if oldest and (over > 0 or age) then
      redis.call("ZADD", q.timers, over > 0 and now or died + age, "a")
    end
  end

  -- Puts a message aside, because of: 1 its attempts, 2 its crashes, 3 that it expired, 4 that too many
  -- waited, 5 that a worker said so. Returns nil, or the error that says why it cannot be put there.
  local function bury(q, facet, message, cause)
    local key = q.died_of .. facet
    for _, read in ipairs({ { "HLEN", q.letters }, { "ZCARD", q.dead }, { "ZCARD", key } }) do
      local there = redis.pcall(unpack(read))
      if type(there) == "table" then
        return there
      end
    end
    local died = string.format("%d", now)
    local id = message:match("^([1-9]%d*) %d+ %d+ %d+[, ]")
    local name = id and #id <= 16 and ("0"):rep(16 - #id) .. id
    q.buried = q.buried or {}
    if not name or q.buried[name] or redis.call("HEXISTS", q.letters, name) == 1 then
      -- Somebody else has put it there, or put it there again.
      name = string.format("%016.0f", redis.call("INCR", seq))
      local rest = id and message:sub(#id + 1)
      message = name:match("[^0].*") .. (rest or string.format(" 0 %.0f 0 ", now) .. message)
    end
    local letter = died .. " " .. cause .. " " .. #facet .. " " .. facet .. message
    q.buried[name] = true
    add(q, "commands", { "HSET", q.letters, name, letter }, { "ZADD", key, died, name })
    add(q, "commands", { "ZADD", q.dead, "LT", died, facet })
    add(q, "commands", { "HINCRBY", q.clock, "died", 1 })
    q.trims = (q.own.most_dead or q.own.dead_for) and trim
  end

  -- Keeps a message aside until it is due. Returns as bury().
  local function delay(q, facet, message, at)
    local key = q.delays .. facet
    local there = redis.pcall("ZCARD", key)
    if type(there) == "table" then
      return there
    end
    local id, rest = message:match("^(%d+)()")
    local member = ("0"):rep(16 - #id) .. id .. message:sub(rest)
    q.alarm = q.alarm or at < now + WINDOW
    at = string.format("%.0f", at)
    add(q, "commands", { "ZADD", key, at, member }, { "ZADD", q.timers, "LT", at, "s" .. facet })
    add(q, "commands", { "HINCRBY", q.clock, "delayed", 1 })
  end

  -- Puts messages back into the list of their facet: at its front, or at its end. Returns as bury().
  local function put(q, side, facet, message)
    if q[side] == NONE then
      q[side], q.dirty = {}, true
    end
    local messages = q[side][facet]
    if not messages then
      local waiting = redis.pcall("LLEN", q.list .. facet)
      if type(waiting) == "table" then
        return waiting
      end
      if waiting == 0 then
        comes(q, facet, "coming")
      end
      messages = {}
      q[side][facet] = messages
    end
    messages[#messages + 1] = message
    q.waiting = q.waiting + 1
    if q.special == 0 and (message:match("^%d+ %d+ %d+ %d+(,[^ ]*)") or ""):find(",[cx]") then
      q.special = 1
    end
  end

  -- Gives a leased message back: the one way back for all that is leased. `how` says whether it was an
  -- attempt (counted), whether its lease has ended (crashed), in how many ms it is to be served again
  -- (after; nil: next of its facet), whether it is given up now (last), and why it failed (reason).
  -- Returns nil, or the error that says why it cannot go where it should; it stays leased then.
  local function release(q, lease, id, facet, message, how)
    local m = split(message or "")
    if not m or facet == "" then
      return redis.error_reply("RECORD what is leased as " .. id .. " is not fairlane's")
    end
    m.attempts = m.attempts + how.counted
    m.crashes = m.crashes + (how.crashed and 1 or 0)
    local text, failed = join(m, message, how.reason), nil
    local after = how.after and how.after(m.attempts)
    if how.last then
      failed = bury(q, facet, text, 5)
    elseif how.counted == 1 and m.attempts >= (q.own.max_attempts or 20) then
      failed = bury(q, facet, text, 1)
    elseif how.crashed and m.crashes >= (q.own.max_crashes or 5) then
      failed = bury(q, facet, text, 2)
    elseif after then
      failed = delay(q, facet, text, now + after)
    else
      failed = put(q, "returned", facet, text)
    end
    if failed then
      return failed
    end
    gone(q, lease, id, facet)
    q.came_back = q.came_back + 1
  end

  -- Does what is due by now: gives back whole leases that have ended, at least one, and others as long
  -- as that is at most so many messages, until half of MOST_BYTES is reached; lets delayed messages
  -- join the end of their facets, within the same bounds, of each an equal share; opens gates. What one
  -- call gives back keeps its order; what is left for a next call goes before it. It writes nothing:
  -- close() does. Returns whether more may be due.
  local function due(q, names, most)
    redis.call("HLEN", q.held)
    q.dirty = true
    local back, moved, bytes, stuck, more = {}, 0, 0, {}, #names == most
    local share = math.max(1, math.floor(most / #names)) -- of one facet's delayed messages
    local function full(size)
      local is = moved > 0 and (moved + size > most or bytes >= MOST_BYTES / 2)
      more = more or is
      return is
    end

    local function lease(name)
      local key = q.lease .. name
      local size = redis.pcall("HLEN", key)
      if type(size) == "table" then
        stuck[name] = true
        return true
      elseif full(size / 2) then
        return false
      end
      local of, messages = { size = 0, gone = {} }, {}
      local all = size > 0 and redis.call("HGETALL", key) or NONE
      for i = 1, #all, 2 do
        messages[all[i]], bytes = all[i + 1], bytes + #all[i + 1]
      end
      for i = 1, #all, 2 do
        local id, facet = all[i], all[i + 1]
        if id:byte() ~= 109 then -- m
          of.size, back[#back + 1] = of.size + 1, { name, id, facet, messages["m" .. id] }
        end
      end
      q.leases[name], moved = of, moved + of.size
      return true
    end

    local function join_end(name, facet)
      local key, at, size = q.delays .. facet, 0, math.min(8, share + 1)
      if full(1) then
        return false
      end
      while true do
        local page = redis.pcall("ZRANGE", key, at, at + size - 1, "WITHSCORES")
        if page.err then
          stuck[name] = true
          return true
        end
        for i = 1, #page, 2 do
          local later = tonumber(page[i + 1]) > now
          if later or at + (i + 1) / 2 > share or full(1) then
            more = more or not later
            add(q, "timed", later and page[i + 1] or now, name) -- What is left goes behind the others.
            return true
          end
          local member = page[i]
          local begin = member:find("[^0]") or 1
          if put(q, "appended", facet, member:sub(begin)) then
            stuck[name] = true
            return true
          end
          add(q, "commands", { "ZREM", key, member })
          add(q, "commands", { "HINCRBY", q.clock, "delayed", -1 })
          moved, bytes = moved + 1, bytes + #member
        end
        at = at + #page / 2
        if #page < 2 * size then
          add(q, "untimed", name)
          return true
        end
      end
    end

    for _, name in ipairs(names) do
      local kind, facet = name:byte(), name:sub(2)
      if kind == 115 then -- s: delayed messages
        if not join_end(name, facet) then
          break
        end
      elseif kind >= 48 and kind <= 57 then
        if not lease(name) then
          break
        end
      elseif kind == 97 then -- a: old dead letters
        add(q, "untimed", name)
        q.trims = trim
      else
        add(q, "untimed", name)
        if kind == 104 then -- h: the end of a hold
          add(q, "commands", { "HINCRBY", q.clock, "holds", -1 })
        end
        comes(q, facet, "freed")
      end
    end
    -- The newest first: each goes to the front, and the oldest shall be there in the end.
    table.sort(back, function(a, b)
      return (tonumber(a[2]) or 0) > (tonumber(b[2]) or 0)
    end)
    local how = { counted = 1, crashed = true }
    for _, m in ipairs(back) do
      local name, id, facet, message = unpack(m, 1, 4)
      stuck[name] = release(q, name, id, facet, message, how) and true or stuck[name]
    end
    for name in pairs(stuck) do -- What is due and cannot go where it should must block nobody.
      add(q, "timed", now + 60000, name)
    end
    arrive(q)
    return more
  end

  made = {
    split = split,
    join = join,
    exhume = exhume,
    bury = bury,
    delay = delay,
    put = put,
    release = release,
    due = due,
  }
  return made
end

-- Does what is due by now, if anything is: see life().due. Returns whether more may be due.
local function due(q, most)
  local names = redis.call("ZRANGE", q.timers, "-inf", now, "BYSCORE", "LIMIT", 0, most)
  return #names > 0 and life().due(q, names, most)
end
