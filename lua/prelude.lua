-- prelude.lua: the keys, named once, and what the scripts share. It stands in front of the body of
-- each of them.
--
-- KEYS is the list of the namespace, then one list for each queue of the call, always in this
-- order; src/keys.rs builds it. ARGV[1] is the same in every script. What a script changes in a
-- queue is gathered in the table that open() gives, and written by close(): all checks come before
-- the first write.
local routes = KEYS[1] -- hash: queue -> pattern; ":version" -> version of the routes
local seq = KEYS[2] -- integer: the last number drawn, for message ids and for leases
local layout = KEYS[3] -- integer: layout of these keys

local MOST_BYTES = 524288 -- of messages that one call moves; one that is larger is moved alone
-- One turn at weight 1, in the unit of turns that are stored: a 2^20th part. So most of them are
-- whole numbers, which are written and read in less than half the time.
local TURN = 1048576
-- The clock of a queue (see choose and arrive), and what it counts: its waiting messages, and from
-- its beginning those that were delivered, were served (pulled or leased), were acked, and came
-- back.
local FIELDS =
  { "floor", "arrival", "early", "waiting", "delivered", "served", "acked", "came_back" }

local now = tonumber(ARGV[1]) -- ms since 1970; 0: by the clock of Redis
if now == 0 then
  local time = redis.call("TIME") -- Read once: in 7.0 it moves while a script runs.
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Opens queue i of the call: reads its clock, and meets a key of a wrong type before anything is
-- written. (Whoever writes timers, leases and held reads them before.)
local function open(i)
  local before = 3 + (i - 1) * 11
  local q = {
    clock = KEYS[before + 1], -- hash: FIELDS; "closed" by destroy
    ready = KEYS[before + 2], -- zset: facet -> its turn; only facets that can be served now
    parked = KEYS[before + 3], -- zset: paused facet with messages -> the turn it left with, or 0
    idle = KEYS[before + 4], -- zset: facet in debt, with none waiting -> the turn it left with
    timers = KEYS[before + 5], -- zset: lease -> its end, ms
    lease = KEYS[before + 6], -- then a lease: hash: id -> facet, "m<id>" -> message. It is named by
    -- its number; what was extended apart from others by "<number>/<id>"
    held = KEYS[before + 7], -- hash: facet -> how many of its messages are leased; "" -> all
    weights = KEYS[before + 8], -- hash: facet -> its weight, where that is not 1
    pauses = KEYS[before + 9], -- set: paused facets; the empty one is the queue itself
    wake = KEYS[before + 10], -- zset: the marker, while something can be served
    list = KEYS[before + 11], -- then a facet's name: list of its waiting messages, oldest first,
    -- each "<id> <attempts> <delivered at, ms> <bytes of the topic> <topic><body>"
    entering = {}, -- turn and facet, in turn, of those that become ready
    parking = {}, -- turn and facet, in turn, of those that get messages while they are paused
    owing = {}, -- turn and facet, in turn, of those that become idle
    drained = {}, -- facets that are taken out of ready
    leaving = {}, -- facets that are taken out of idle
    resuming = {}, -- facets that are taken out of parked
    returned = {}, -- facet -> messages that go back to its front, the foremost last
    leases = {}, -- lease -> its size, and what is gone from it: id -> facet
    stuck = {}, -- time and lease, in turn, of what is due and cannot go back: it must block nobody
    loads = {}, -- facet -> how many more of its messages are leased
  }
  local clock = redis.call("HMGET", q.clock, "closed", unpack(FIELDS))
  q.closed, q.before = clock[1], {}
  for n, field in ipairs(FIELDS) do
    local value = tonumber(clock[n + 1]) or 0
    q[field], q.before[n] = value, value
  end
  q.facets = redis.call("ZCARD", q.ready)
  q.debtors = redis.call("ZCARD", q.idle)
  q.weighted = redis.call("HLEN", q.weights) > 0
  q.marked = redis.call("ZCARD", q.wake) > 0
  q.pausing = redis.call("SCARD", q.pauses) > 0
  q.paused = q.pausing and redis.call("SISMEMBER", q.pauses, "") == 1
  q.aside = q.pausing and redis.call("ZCARD", q.parked) or 0
  return q
end

-- Returns the error that there is no such queue, if there is none.
local function missing(q, name)
  local holds = q.facets + q.aside > 0 or redis.call("HEXISTS", q.held, "") == 1
  if q.closed or not holds and redis.call("HEXISTS", routes, name) == 0 then
    return redis.error_reply("NOQUEUE there is no queue " .. name)
  end
end

-- Writes what was gathered. A queue with nothing waiting starts its clock anew.
local function close(q)
  -- Numbers go as text: Redis would take longer to make it.
  local function write(command, key, list)
    if #list == 0 then
      return list
    end
    for i, value in ipairs(list) do
      if type(value) == "number" then
        list[i] = string.format(value % 1 == 0 and value < 1e15 and "%d" or "%.17g", value)
      end
    end
    redis.call(command, key, unpack(list))
    return {}
  end
  for facet, messages in pairs(q.returned) do
    write("LPUSH", q.list .. facet, messages)
  end
  local empty = q.moved and q.facets + q.aside == 0
  if empty then -- What these are about goes as a whole.
    q.owing, q.drained, q.leaving = {}, {}, {}
  end
  q.entering = write("ZADD", q.ready, q.entering)
  q.parking = write("ZADD", q.parked, q.parking)
  q.owing = write("ZADD", q.idle, q.owing)
  q.drained = write("ZREM", q.ready, q.drained)
  q.leaving = write("ZREM", q.idle, q.leaving)
  q.resuming = write("ZREM", q.parked, q.resuming)
  q.stuck = write("ZADD", q.timers, q.stuck)
  local over, keys = {}, {}
  for lease, of in pairs(q.leases) do
    local gone = {}
    for id, facet in pairs(of.gone) do
      gone[#gone + 1], q.loads[facet] = id, (q.loads[facet] or 0) - 1
    end
    if #gone == of.size then
      over[#over + 1], keys[#keys + 1] = lease, q.lease .. lease
    else
      for i = 1, #gone do
        gone[#gone + 1] = "m" .. gone[i]
      end
      write("HDEL", q.lease .. lease, gone)
    end
  end
  if #over > 0 then
    redis.call("UNLINK", unpack(keys))
    redis.call("ZREM", q.timers, unpack(over))
  end
  if next(q.loads) then
    local all, facets, befores, set, unset, texts = 0, {}, {}, {}, {}, {}
    for facet, load in pairs(q.loads) do
      facets[#facets + 1], all = facet, all + load
    end
    local held = tonumber(redis.call("HGET", q.held, "")) or 0
    facets[#facets + 1], q.loads[""] = "", all
    if held > 0 and held + all <= 0 then
      redis.call("UNLINK", q.held)
      facets = {}
    elseif held > 0 then
      befores = redis.call("HMGET", q.held, unpack(facets))
    end
    for i, facet in ipairs(facets) do
      local load = (tonumber(befores[i]) or 0) + q.loads[facet]
      if load > 0 then
        texts[load] = texts[load] or string.format("%d", load)
        set[#set + 1], set[#set + 2] = facet, texts[load]
      else
        unset[#unset + 1] = facet
      end
    end
    write("HSET", q.held, set)
    write("HDEL", q.held, unset)
  end
  q.returned, q.leases, q.loads = {}, {}, {}
  if empty then
    redis.call("UNLINK", q.ready, q.idle)
    redis.call("HDEL", q.clock, unpack(FIELDS, 1, 4))
    for n = 1, 4 do
      q[FIELDS[n]], q.before[n] = 0, 0
    end
  end
  local changed = {}
  for n, field in ipairs(FIELDS) do
    local value = q[field]
    if value ~= q.before[n] then
      changed[#changed + 1], changed[#changed + 2], q.before[n] = field, value, value
    end
  end
  write("HSET", q.clock, changed)
  local servable = q.facets > 0 and not q.paused
  if q.moved and servable ~= q.marked then
    if servable then
      redis.call("ZADD", q.wake, 0, "marker")
    else
      redis.call("UNLINK", q.wake)
    end
    q.marked = servable
  end
end

-- Gives turns to facets that get something to serve, each named once. Newcomers go to the end of
-- the round, but every regular service has earned one place at the front. A facet that left in debt
-- goes on where it left. One that is paused keeps that for when it is resumed.
local function arrive(q, facets)
  local function of(there, command, key)
    return there and #facets > 0 and redis.call(command, key, unpack(facets)) or {}
  end
  local debts = of(q.debtors > 0, "ZMSCORE", q.idle)
  local kept = of(q.aside > 0, "ZMSCORE", q.parked)
  local paused = of(q.pausing, "SMISMEMBER", q.pauses)
  local weights = of(q.weighted, "HMGET", q.weights)
  local tick = math.max(1, q.floor * 2 ^ -50)
  for i, facet in ipairs(facets) do
    local left = tonumber(debts[i])
    local stays = left and left > q.floor
    if left then
      q.leaving[#q.leaving + 1] = facet
    else
      left = tonumber(kept[i])
      if left then
        q.resuming[#q.resuming + 1], q.aside = facet, q.aside - 1
        stays = left >= q.floor -- At the floor it is about to be served.
      end
    end
    if paused[i] == 1 then
      q.parking[#q.parking + 1], q.parking[#q.parking + 2] = left or 0, facet
      q.aside = q.aside + 1
    else
      local turn = left
      q.early = math.min(q.early, q.facets)
      if not stays and q.early >= 1 then
        turn = q.floor - q.early * tick
        q.early = q.early - 1
      elseif not stays then
        q.arrival = math.max(q.arrival, q.floor) + tick
        turn = q.arrival + TURN / (tonumber(weights[i]) or 1)
      end
      q.entering[#q.entering + 1], q.entering[#q.entering + 2] = turn, facet
      q.facets = q.facets + 1
    end
  end
  q.moved = q.moved or #facets > 0
end

-- Gives a leased message back to the front of its facet: the one way back for all that is leased.
-- Returns nil, or the error that says why its list cannot take it; it stays leased then.
local function release(q, lease, id, facet, message, counted)
  local attempts, rest = (message or ""):match("^%d+ (%d+)()")
  if not attempts or facet == "" then
    return redis.error_reply("RECORD what is leased as " .. id .. " is not fairlane's")
  end
  local messages = q.returned[facet]
  if not messages then
    local waiting = redis.pcall("LLEN", q.list .. facet)
    if type(waiting) == "table" then
      return waiting
    elseif waiting == 0 then
      arrive(q, { facet })
    end
    messages = {}
    q.returned[facet] = messages
  end
  messages[#messages + 1] = id .. " " .. (attempts + counted) .. message:sub(rest)
  q.leases[lease].gone[id] = facet
  q.waiting, q.came_back = q.waiting + 1, q.came_back + 1
end

-- Releases what is due by now: whole leases, at least one, and others as long as that is at most so
-- many messages, until half of MOST_BYTES is reached. What one call gives back keeps its order; what
-- is left for a next call goes before it. It writes nothing: close() does. Returns whether more may
-- be due.
local function due(q, most)
  local leases = redis.call("ZRANGE", q.timers, "-inf", now, "BYSCORE", "LIMIT", 0, most)
  if #leases == 0 then
    return false
  end
  redis.call("HLEN", q.held)
  local back, bytes, stuck, more = {}, 0, {}, #leases == most
  for _, lease in ipairs(leases) do
    local key = q.lease .. lease
    local size = redis.pcall("HLEN", key)
    if type(size) == "table" then
      stuck[lease] = true
    elseif #back > 0 and (#back + size / 2 > most or bytes >= MOST_BYTES / 2) then
      more = true
      break
    else
      local of = { size = 0, gone = {} }
      local all = size > 0 and redis.call("HGETALL", key) or {}
      local messages = {}
      for i = 1, #all, 2 do
        messages[all[i]], bytes = all[i + 1], bytes + #all[i + 1]
      end
      for i = 1, #all, 2 do
        local id, facet = all[i], all[i + 1]
        if id:byte() ~= 109 then -- m
          of.size, back[#back + 1] = of.size + 1, { lease, id, facet, messages["m" .. id] }
        end
      end
      q.leases[lease] = of
    end
  end
  -- The newest first: each goes to the front, and the oldest shall be there in the end.
  table.sort(back, function(a, b)
    return (tonumber(a[2]) or 0) > (tonumber(b[2]) or 0)
  end)
  for _, m in ipairs(back) do
    local lease, id, facet, message = unpack(m, 1, 4)
    stuck[lease] = release(q, lease, id, facet, message, 1) and true or stuck[lease]
  end
  for lease in pairs(stuck) do
    q.stuck[#q.stuck + 1], q.stuck[#q.stuck + 2] = now + 60000, lease
  end
  return more
end

-- Calls act(q, lease, id, facet) for each message that is named from ARGV[first] on and still leased
-- by the caller; it returns how much it has read. They are named in groups, each: queue among KEYS,
-- number of the lease, how many, their ids. Ends with the group in which MOST_BYTES were read.
--
-- Returns how many of them, at the beginning, are still to be named in a next call; then the
-- places, counted from 1, of those that are not the caller's.
local function settle(first, act)
  local queues, groups, lost, bytes = {}, {}, {}, 0
  local i, named = first, 0
  while i <= #ARGV do
    local place, count = ARGV[i], tonumber(ARGV[i + 2])
    if not queues[place] then
      queues[place] = open(place)
      redis.call("ZCARD", queues[place].timers)
      redis.call("HLEN", queues[place].held)
    end
    groups[#groups + 1] = { queues[place], ARGV[i + 1], i + 3, count, named }
    i, named = i + 3 + count, named + count
  end
  -- The last first: what goes back to the front shall be in the order of the call.
  while #groups > 0 and bytes < MOST_BYTES do
    local q, number, from, count, before = unpack(table.remove(groups))
    local facets = redis.call("HMGET", q.lease .. number, unpack(ARGV, from, from + count - 1))
    for n = count, 1, -1 do
      local lease, id, facet = number, ARGV[from + n - 1], facets[n]
      if not facet then
        lease = number .. "/" .. id
        facet = redis.call("HGET", q.lease .. lease, id)
      end
      local of = q.leases[lease]
      if facet and not of then
        of = { size = redis.call("HLEN", q.lease .. lease) / 2, gone = {} }
        q.leases[lease] = of
      end
      if facet and not of.gone[id] and not q.closed then
        bytes = bytes + (act(q, lease, id, facet) or 0)
      else
        lost[#lost + 1] = before + n
      end
    end
    named = before
  end
  for _, q in pairs(queues) do
    close(q)
  end
  return { named, unpack(lost) }
end

-- Chooses messages in the order in which single pulls would take them, and moves the clock. What was
-- gathered before counts as if it was written. Writes nothing, unless it pops: then what it reads
-- leaves the lists.
-- Returns facet and message in turn, the facets it looked at, and what ended it: 0 that it has all
-- it should; 1 that 1,000 facets had no message although they are ready; 2 its bytes, or MOST_BYTES
-- when it pops.
local function choose(q, most, bytes, pops)
  local chosen, count, seen = {}, 0, {}
  local least = pops and bytes - MOST_BYTES or 0 -- bytes that are left, unless it is one message
  local window, at, read, whole = {}, 1, 0, false -- of the ready set: facet and turn, in turn
  local head -- the facet with the lowest turn of those that were not served
  local again, front, last = {}, 1, 0 -- facets that were served, in line for their next turn

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
    local f = { name = name, key = key, turn = tonumber(turn), taken = 0, left = left }
    local returned = q.returned[name]
    if returned then
      f.page, f.at, f.left, f.before = {}, 1, left + #returned, #returned
      for i = #returned, 1, -1 do
        f.page[#f.page + 1] = returned[i]
      end
    end
    return f
  end
  -- Returns the next message of a facet that has one left. Reads ahead, but not far: the next ones
  -- may be larger.
  local function next_of(f)
    local key, from = f.key, f.taken - (f.before or 0)
    if f.page and f.page[f.at] then
      f.at = f.at + 1
      return f.page[f.at - 1]
    elseif from == 0 then
      return pops and redis.call("LPOP", key) or redis.call("LINDEX", key, "0")
    end
    local size = math.floor(65536 / #chosen[2 * count])
    size = math.max(1, math.min(from, size, f.left, most - count, 8))
    f.page = pops and redis.call("LPOP", key, size)
      or redis.call("LRANGE", key, from, from + size - 1)
    f.at = 2
    return f.page[1]
  end

  for i = 1, #q.entering, 2 do
    line_up(facet(q.entering[i + 1], q.entering[i]))
  end
  while count < most do
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
    if f.left > 0 then
      local message = next_of(f)
      bytes = bytes - #message
      if bytes < 0 or bytes < least and count > 0 then
        f.over = message
        return chosen, seen, 2
      end
      if f.turn >= q.floor then
        q.early, q.floor = math.min(q.early + 1, q.facets), f.turn
      end
      if q.weighted then
        f.weight = f.weight or tonumber(redis.call("HGET", q.weights, f.name)) or 1
      end
      f.turn, f.taken, f.left = f.turn + TURN / (f.weight or 1), f.taken + 1, f.left - 1
      count = count + 1
      chosen[2 * count - 1], chosen[2 * count] = f.name, message
    end
    if f.left > 0 then
      line_up(f)
    else
      q.facets, f.out = q.facets - 1, true
    end
  end
  return chosen, seen, 0
end

-- Takes messages off queue 1 of the call, what is due given back before. keep(q, chosen) holds on
-- to them, and returns the number of their lease; when it fails, they go back to their lists.
-- Returns 0; or 1 when a bound ended the call before it was known whether more can be served, or 2
-- when the next message would be more than its bytes or MOST_BYTES. Then 0 when more can be served
-- now, or in how many ms something is due, or -1 for never. Then the number of the lease, or 0; then
-- facet and message in turn.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local function take(name, most, bytes, keep)
  local q = open(1)
  if q.closed then
    return missing(q, name)
  end
  local more = due(q, 400 - most) -- The more it takes, the less it gives back.
  if next(q.leases) or #q.stuck > 0 then
    close(q)
  end
  local chosen, seen, ended = {}, {}, 0
  if not q.paused then
    chosen, seen, ended = choose(q, most, bytes, true)
  end
  local entering, drained, loads = q.entering, q.drained, q.loads
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
      if f.turn > q.floor then
        q.owing[#q.owing + 1], q.owing[#q.owing + 2] = f.turn, f.name
      end
    elseif f.taken > 0 then
      entering[#entering + 1], entering[#entering + 2] = f.turn, f.name
    end
    if keep and f.taken > 0 then
      loads[f.name] = f.taken
    end
  end
  q.moved = q.moved or #entering + #drained > 0
  local lease = 0
  if keep and #chosen > 0 then
    local kept
    kept, lease = pcall(keep, q, chosen)
    if not kept then
      for i = #chosen, 2, -2 do
        redis.call("LPUSH", q.list .. chosen[i - 1], chosen[i])
      end
      return redis.error_reply(lease.err or lease)
    end
  end
  if q.debtors > 0 and #chosen > 0 then
    q.leaving = redis.call("ZRANGE", q.idle, "-inf", q.floor, "BYSCORE", "LIMIT", 0, #chosen)
  end
  q.served, q.waiting = q.served + #chosen / 2, math.max(0, q.waiting - #chosen / 2)
  close(q)
  local none = #chosen == 0 and missing(q, name)
  if none then
    return none
  end
  local rest = 0
  if q.facets == 0 or q.paused then
    local first = redis.call("ZRANGE", q.timers, 0, 0, "WITHSCORES")[2]
    rest = first and math.max(0, first - now) or -1
  end
  return { ended == 0 and more and 1 or ended, rest, lease, unpack(chosen) }
end
