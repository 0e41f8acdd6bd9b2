-- take.lua: what is served next, and how it is taken.

-- Chooses messages in the order in which single pulls would take them, and moves the clock. What was
-- gathered before counts as if it was written. Those that have expired are passed over, into
-- q.lapsed; a facet whose gate closes is parked. q.round is how far the round of turns has gone with
-- that: by what each costs, for each facet that is ready. Writes nothing, unless it pops: then what it
-- reads leaves the lists.
-- Returns facet and message in turn, the facets it looked at, and what ended it: 0 that it has all
-- it should; 1 that it looked at 1,000 facets in vain, or passed over 250 messages; 2 its bytes, or
-- MOST_BYTES when it pops.
local function choose(q, most, bytes, leases, pops)
  local chosen, taken, seen = {}, 0, {}
  local least = pops and bytes - MOST_BYTES or 0 -- bytes that are left, unless it is one message
  local window, at, read, whole = {}, 1, 0, false -- of the ready set: facet and turn, in turn
  local head -- the facet with the lowest turn of those that were not served
  local again, front, last = {}, 1, 0 -- facets that were served, in line for their next turn
  local gates = q.configured or q.holds > 0
  local lapsed, passed, ttl = {}, 0, q.own.ttl
  q.lapsed, q.round = lapsed, 0

  -- Whether facet a is served before facet b of the same turn: by name, as the ready set has it
  -- (byte by byte).
  local function precedes(a, b)
    for i = 1, math.min(#a.name, #b.name) do
      if a.name:byte(i) ~= b.name:byte(i) then
        return a.name:byte(i) < b.name:byte(i)
      end
    end
    return #a.name < #b.name
  end
  local function line_up(f)
    local place, turn = last + 1, f.turn
    last = place
    while place > front do
      local other = again[place - 1]
      if other.turn < turn or other.turn == turn and precedes(other, f) then
        break
      end
      again[place], place = other, place - 1
    end
    again[place] = f
  end
  -- A key that is no list holds no message.
  local function facet(name, turn)
    local key = q.list .. name
    local left = tonumber(redis.pcall("LLEN", key)) or 0
    local f = { name = name, key = key, turn = tonumber(turn), served = 0, read = 0, left = left }
    local returned, appended = q.returned[name], q.appended[name]
    if returned or appended then
      f.returned, f.appended, f.listed = returned or NONE, appended or NONE, left
      f.left = left + #f.returned + #f.appended
    end
    if gates then
      local set = settings(q, { name })[1]
      f.set, f.weight = set, set.weight
      local opens
      f.closed, opens, f.load, f.full = gate(q, name, set)
      f.opens = f.closed == 4 and opens or nil
    end
    return f
  end
  -- Returns the next message of a facet that has one left. Reads ahead, but not far: the next ones
  -- may be larger.
  local function next_of(f)
    local key, from = f.key, f.read
    f.read, f.left = from + 1, f.left - 1
    if f.returned then
      if from < #f.returned then
        return f.returned[#f.returned - from]
      end
      from = from - #f.returned
      if from >= f.listed then
        return f.appended[from - f.listed + 1]
      end
    end
    if f.page and f.page[f.at] then
      f.at = f.at + 1
      return f.page[f.at - 1]
    elseif from == 0 then
      return pops and redis.call("LPOP", key) or redis.call("LINDEX", key, "0")
    end
    local size = math.floor(65536 / (f.size or 65536))
    size = math.max(1, math.min(from, size, f.left + 1, most - taken, 8))
    f.page = pops and redis.call("LPOP", key, size)
      or redis.call("LRANGE", key, from, from + size - 1)
    f.at = 2
    return f.page[1]
  end

  for i = 1, #q.entering, 2 do
    line_up(facet(q.entering[i + 1], q.entering[i]))
  end
  while taken < most do
    if not head and at > #window and not whole then
      if read >= most + 1000 then
        return chosen, seen, 1
      end
      window = redis.call("ZRANGE", q.ready, read, read + most - 1, "WITHSCORES")
      at, read, whole = 1, read + #window / 2, #window < 2 * most
    end
    if not head and window[at] then
      head, at = facet(window[at], window[at + 1]), at + 2
      seen[#seen + 1] = head
    end
    local f = again[front]
    if f and not (head and (head.turn < f.turn or head.turn == f.turn and precedes(head, f))) then
      front = front + 1
    else
      f, head = head, nil
    end
    if not f then
      break
    end
    if f.left > 0 and not f.closed then
      local message = next_of(f)
      local size, cost, ends = #message, 1, nil
      if ttl or q.special == 1 then
        local since, more = message:match("^%d+ %d+ (%d+) %d+([^ ]*) ")
        ends = ttl and since and (more:match(",d(%d+)") or since) + ttl
        if more and more ~= "" then
          cost = tonumber(more:match(",c([^,]+)")) or 1
          ends = tonumber(more:match(",x(%d+)")) or ends
        end
      end
      if ends and ends <= now then
        if #lapsed >= 500 or passed > 0 and passed + size > MOST_BYTES then
          f.over = message
          return chosen, seen, 1
        end
        lapsed[#lapsed + 1], lapsed[#lapsed + 2] = f.name, message
        passed, f.size = passed + size, size
      else
        bytes = bytes - size
        if bytes < 0 or bytes < least and taken > 0 then
          f.over = message
          return chosen, seen, 2
        end
        if f.turn >= q.floor then
          q.early, q.floor = math.min(q.early + 1, q.facets), f.turn
        end
        local charge = cost * TURN / (f.weight or 1)
        f.turn, f.served, q.round =
          f.turn + charge, f.served + 1, q.round + charge / math.max(1, q.facets)
        f.size, taken = size, taken + 1
        chosen[2 * taken - 1], chosen[2 * taken] = f.name, message
        if f.load and leases then
          f.load = f.load + 1
          f.closed = f.load >= f.set.most_leased
        end
        if f.full then
          local set = f.set
          f.full = math.max(f.full, now) + set.period / set.rate
          local opens = f.full - (set.burst - 1) * set.period / set.rate
          if opens >= now + 1 and not f.closed then
            f.closed, f.opens = true, opens
          end
        end
      end
    end
    if f.left > 0 and not f.closed then
      line_up(f)
    else
      q.facets, f.out = q.facets - 1, true
      if f.left > 0 then
        q.aside, f.parks = q.aside + 1, true
        if f.served == 0 and f.turn < q.floor then
          q.early = math.min(q.early + 1, q.facets) -- It gives back its place at the front.
        end
      end
    end
  end
  return chosen, seen, 0
end

-- Takes messages off queue 1 of the call, after what is due by then. keep(q, chosen) holds on to
-- them, and returns the number of their lease; when it fails, they go back to their lists.
-- Returns 0; or 1 when a bound ended the call before it was known whether more can be served, or 2
-- when the next message would be more than its bytes or MOST_BYTES. Then 0 when more can be served
-- now, or in how many ms something is due, or -1 for never. Then how far the round of turns has gone,
-- in turns at weight 1, as text; and the number of the lease, or 0; then facet and message in turn.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local function take(name, most, bytes, keep)
  local q = open(1)
  if q.closed then
    return missing(q, name)
  end
  local more = due(q, 400 - most) -- The more it takes, the less it gives back.
  if q.dirty then
    close(q)
  end
  local chosen, seen, ended = {}, {}, 0
  if not q.paused then
    chosen, seen, ended = choose(q, most, bytes, keep, true)
  end
  local entering, drained, loads = q.entering, q.drained, q.loads
  local lapsed = q.lapsed or NONE
  for _, f in ipairs(seen) do
    if f.page or f.over then -- What was read and not chosen goes back.
      local back = {}
      for i = f.page and #f.page or 0, f.at or 1, -1 do
        back[#back + 1] = f.page[i]
      end
      back[#back + 1] = f.over
      if #back > 0 then
        redis.call("LPUSH", f.key, unpack(back))
      end
    end
    if f.out then
      drained[#drained + 1] = f.name
      if f.parks then
        add(q, "parking", f.turn, f.name)
      elseif f.turn > q.floor then
        q.owing[#q.owing + 1], q.owing[#q.owing + 2] = f.turn, f.name
      end
    elseif f.served > 0 then
      entering[#entering + 1], entering[#entering + 2] = f.turn, f.name
    end
    if f.parks and f.opens then
      add(q, "timed", f.opens, "r" .. f.name)
    end
    if f.full and f.served > 0 then
      add(q, "timed", f.full, "t" .. f.name)
    end
    if keep and f.served > 0 then
      loads[f.name] = f.served
    end
  end
  q.moved = q.moved or #entering + #drained > 0
  local lease = 0
  if keep and #chosen > 0 then
    local kept
    kept, lease = pcall(keep, q, chosen)
    if not kept then
      for _, list in ipairs({ chosen, lapsed }) do
        for i = #list, 2, -2 do
          redis.call("LPUSH", q.list .. list[i - 1], list[i])
        end
      end
      return redis.error_reply(lease.err or lease)
    end
  end
  if q.debtors > 0 and #chosen > 0 then
    q.leaving = redis.call("ZRANGE", q.idle, "-inf", q.floor, "BYSCORE", "LIMIT", 0, #chosen)
  end
  for i = 2, q.own.bury_expired == 1 and #lapsed or 0, 2 do
    local facet, message = lapsed[i - 1], lapsed[i]
    if life().bury(q, facet, message, 3) then
      add(q, "commands", { "HINCRBY", q.clock, "dropped", 1 })
    end
  end
  if #lapsed > 0 then
    add(q, "commands", { "HINCRBY", q.clock, "expired", #lapsed / 2 })
  end
  q.served = q.served + #chosen / 2
  q.waiting, q.looked = math.max(0, q.waiting - #chosen / 2 - #lapsed / 2), true
  q.moved = q.moved or q.marked
  close(q)
  local none = #chosen == 0 and missing(q, name)
  if none then
    return none
  end
  local rest = 0
  if q.facets == 0 or q.paused then
    local first = redis.call("ZRANGE", q.timers, 0, 15, "WITHSCORES")
    rest = first[2] and math.max(0, first[2] - now) or -1
    for i = 1, #chosen > 0 and not q.marked and #first or 0, 2 do
      if first[i]:find("^[hrs]") and first[i + 1] - now < WINDOW then
        redis.call("ZADD", q.wake, 0, "marker") -- Others that wait have not heard of that.
        break
      end
    end
  end
  ended = ended == 0 and more and 1 or ended
  return { ended, rest, string.format("%.17g", (q.round or 0) / TURN), lease, unpack(chosen) }
end
