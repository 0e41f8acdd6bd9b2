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

local MOST_BYTES = 4194304 -- of messages that one call moves; one that is larger is moved alone
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
-- written. (Whoever writes timers, leased and held reads them before.)
local function open(i)
  local before = 3 + (i - 1) * 11
  local q = {
    clock = KEYS[before + 1], -- hash: FIELDS; "closed" by destroy
    ready = KEYS[before + 2], -- zset: facet -> its turn; only facets that can be served now
    parked = KEYS[before + 3], -- zset: paused facet with messages -> the turn it left with, or 0
    idle = KEYS[before + 4], -- zset: facet in debt, with none waiting -> the turn it left with
    timers = KEYS[before + 5], -- zset: id of a leased message -> end of its lease, ms
    leased = KEYS[before + 6], -- hash: id -> "<lease> <bytes of the facet> <facet><message>"
    held = KEYS[before + 7], -- hash: facet -> how many of its messages are leased
    weights = KEYS[before + 8], -- hash: facet -> its weight, where that is not 1
    pauses = KEYS[before + 9], -- set: paused facets; the empty one is the queue itself
    wake = KEYS[before + 10], -- zset: the marker, while something can be served
    list = KEYS[before + 11], -- then a facet's name: list of its waiting messages, oldest first,
    -- each "<id> <attempts> <delivered at, ms> <bytes of the topic> <topic><body>"
    entering = {}, -- turn and facet, in turn, of those that become ready
    parking = {}, -- turn and facet, in turn, of those that get messages while they are paused
    leaving = {}, -- facets that are taken out of idle
    resuming = {}, -- facets that are taken out of parked
    returned = {}, -- facet -> messages that go back to its front, the foremost last
    gone = {}, -- ids that are no longer leased, as a list and as a set
    stuck = {}, -- time and id, in turn, of what is due and cannot go back: it must block nobody
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
  local holds = q.facets + q.aside > 0 or redis.call("HLEN", q.leased) > 0
  if q.closed or not holds and redis.call("HEXISTS", routes, name) == 0 then
    return redis.error_reply("NOQUEUE there is no queue " .. name)
  end
end

-- Writes what was gathered. A queue with nothing waiting starts its clock anew.
local function close(q)
  local function write(command, key, list)
    if #list > 0 then
      redis.call(command, key, unpack(list))
      return {}
    end
    return list
  end
  for facet, messages in pairs(q.returned) do
    write("LPUSH", q.list .. facet, messages)
  end
  q.entering = write("ZADD", q.ready, q.entering)
  q.parking = write("ZADD", q.parked, q.parking)
  q.leaving = write("ZREM", q.idle, q.leaving)
  q.resuming = write("ZREM", q.parked, q.resuming)
  q.stuck = write("ZADD", q.timers, q.stuck)
  write("ZREM", q.timers, q.gone)
  q.gone = write("HDEL", q.leased, q.gone)
  if next(q.loads) then
    local facets, set, unset = {}, {}, {}
    for facet in pairs(q.loads) do
      facets[#facets + 1] = facet
    end
    for i, before in ipairs(redis.call("HMGET", q.held, unpack(facets))) do
      local facet = facets[i]
      local load = (tonumber(before) or 0) + q.loads[facet]
      if load > 0 then
        set[#set + 1], set[#set + 2] = facet, load
      else
        unset[#unset + 1] = facet
      end
    end
    write("HSET", q.held, set)
    write("HDEL", q.held, unset)
  end
  q.returned, q.loads = {}, {}
  if q.moved and q.facets + q.aside == 0 then
    redis.call("UNLINK", q.idle)
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

-- Gives a turn to a facet that gets something to serve. Newcomers go to the end of the round, but
-- every regular service has earned one place at the front. A facet that left in debt goes on where
-- it left. One that is paused keeps that for when it is resumed.
local function arrive(q, facet)
  local left = q.debtors > 0 and tonumber(redis.call("ZSCORE", q.idle, facet))
  local stays = left and left > q.floor
  if left then
    q.leaving[#q.leaving + 1] = facet
  else
    left = q.aside > 0 and tonumber(redis.call("ZSCORE", q.parked, facet))
    if left then
      q.resuming[#q.resuming + 1], q.aside = facet, q.aside - 1
      stays = left >= q.floor -- At the floor it is about to be served.
    end
  end
  q.moved = true
  if q.pausing and redis.call("SISMEMBER", q.pauses, facet) == 1 then
    q.parking[#q.parking + 1], q.parking[#q.parking + 2] = left or 0, facet
    q.aside = q.aside + 1
    return
  end
  local tick = math.max(2 ^ -20, q.floor * 2 ^ -50)
  local turn
  q.early = math.min(q.early, q.facets)
  if stays then
    turn = left
  elseif q.early >= 1 then
    turn = q.floor - q.early * tick
    q.early = q.early - 1
  else
    local weight = q.weighted and tonumber(redis.call("HGET", q.weights, facet)) or 1
    q.arrival = math.max(q.arrival, q.floor) + tick
    turn = q.arrival + 1 / weight
  end
  q.entering[#q.entering + 1], q.entering[#q.entering + 2] = turn, facet
  q.facets = q.facets + 1
end

-- Reads what is leased. Returns its facet, and where the message begins; or nil when it is not
-- fairlane's.
local function parse(record)
  local bytes, from = record:match("^%d+ (%d+) ()")
  if from then
    return record:sub(from, from + bytes - 1), from + bytes
  end
end

-- Gives a leased message back to the front of its facet: the one way back for all that is leased.
-- Returns nil, or the error that says why its list cannot take it; it stays leased then.
local function release(q, id, record, counted)
  local facet, from = parse(record)
  local attempts, rest = (from and record or ""):match("^%d+ (%d+)()", from)
  if not attempts then
    return redis.error_reply("RECORD what is leased as " .. id .. " is not fairlane's")
  end
  local messages = q.returned[facet]
  if not messages then
    local waiting = redis.pcall("LLEN", q.list .. facet)
    if type(waiting) == "table" then
      return waiting
    elseif waiting == 0 then
      arrive(q, facet)
    end
    messages = {}
    q.returned[facet] = messages
  end
  messages[#messages + 1] = id .. " " .. (attempts + counted) .. record:sub(rest)
  q.gone[#q.gone + 1], q.gone[id] = id, true
  q.loads[facet] = (q.loads[facet] or 0) - 1
  q.waiting, q.came_back = q.waiting + 1, q.came_back + 1
end

-- Releases what is due by now, at most so many and not much more than MOST_BYTES of it. What one
-- call gives back keeps its order; what is left for a next call goes before it. It writes nothing:
-- close() does. Returns whether more may be due.
local function due(q, most)
  local ids = redis.call("ZRANGE", q.timers, "-inf", now, "BYSCORE", "LIMIT", 0, most)
  if #ids == 0 then
    return false
  end
  redis.call("HLEN", q.held)
  table.sort(ids, function(a, b)
    return (tonumber(a) or 0) < (tonumber(b) or 0)
  end)
  local records, bytes = {}, 0
  while #records < #ids and bytes < MOST_BYTES do
    records[#records + 1] = redis.call("HGET", q.leased, ids[#records + 1])
    bytes = bytes + #(records[#records] or "")
  end
  -- The newest first: each goes to the front, and the oldest shall be there in the end.
  for i = #records, 1, -1 do
    if not records[i] then
      q.gone[#q.gone + 1] = ids[i]
    elseif release(q, ids[i], records[i], 1) then
      q.stuck[#q.stuck + 1], q.stuck[#q.stuck + 2] = now + 60000, ids[i]
    end
  end
  return #records == most or #records < #ids
end

-- Calls act(q, id, record) for each lease that is named from ARGV[first] on (queue among KEYS, id,
-- lease) and still the caller's; ends when it has read MOST_BYTES.
--
-- Returns how many of them, at the beginning, are still to be named in a next call; then the
-- places, counted from 1, of those that are not the caller's.
local function settle(first, act)
  local queues, reply, bytes = {}, {}, 0
  for i = first, #ARGV, 3 do
    if not queues[ARGV[i]] then
      local q = open(ARGV[i])
      redis.call("ZCARD", q.timers)
      redis.call("HLEN", q.held)
      queues[ARGV[i]] = q
    end
  end
  local i = #ARGV - 2
  -- The last first: what goes back to the front shall be in the order of the call.
  while i >= first and bytes < MOST_BYTES do
    local q, id, lease = queues[ARGV[i]], ARGV[i + 1], ARGV[i + 2] .. " "
    local record = not q.closed and not q.gone[id] and redis.call("HGET", q.leased, id)
    if record and record:sub(1, #lease) == lease then
      act(q, id, record)
    else
      reply[#reply + 1] = (i - first) / 3 + 1
    end
    i, bytes = i - 3, bytes + #(record or "")
  end
  for _, q in pairs(queues) do
    close(q)
  end
  return { (i - first) / 3 + 1, unpack(reply) }
end

-- Chooses messages in the order in which single pulls would take them, and moves the clock; writes
-- nothing. What was gathered before counts as if it was written.
-- Returns facet and message in turn, the facets it looked at, and what ended it: 0 that it has all
-- it should; 1 that 1,000 facets had no message although they are ready; 2 its bytes.
local function choose(q, most, bytes)
  local chosen, seen = {}, {}
  local window, at, whole = {}, 1, false -- facets as the ready set has them, the lowest turns first
  local again, front = {}, 1 -- facets that were served, in line for their next turn

  -- Whether facet a is served before facet b: by turn, and then by name as the ready set has it
  -- (byte by byte).
  local function precedes(a, b)
    if a.turn ~= b.turn then
      return a.turn < b.turn
    end
    for i = 1, math.min(#a.name, #b.name) do
      if a.name:byte(i) ~= b.name:byte(i) then
        return a.name:byte(i) < b.name:byte(i)
      end
    end
    return #a.name < #b.name
  end
  local function line_up(f)
    local place = #again + 1
    while place > front and precedes(f, again[place - 1]) do
      again[place], place = again[place - 1], place - 1
    end
    again[place] = f
  end
  local function facet(name, turn)
    local weight = q.weighted and tonumber(redis.call("HGET", q.weights, name)) or 1
    local page, returned = {}, q.returned[name] or {}
    for i = #returned, 1, -1 do
      page[#page + 1] = returned[i]
    end
    local f = { name = name, turn = tonumber(turn), weight = weight }
    f.taken, f.page, f.at, f.read, f.size = 0, page, 1, 0, 2
    return f
  end
  -- Returns the next message of a facet, or nil when there is none. Reads ahead in pages that grow:
  -- most facets give one message to a call, and some give all of it. A key that is no list holds no
  -- message.
  local function next_of(f)
    if not f.page[f.at] and not f.last then
      local page = redis.pcall("LRANGE", q.list .. f.name, f.read, f.read + f.size - 1)
      f.page, f.at, f.read, f.last = page, 1, f.read + #page, #page < f.size
      f.size = math.max(2, math.min(2 * f.size, 128, math.floor(65536 / #(page[1] or ""))))
    end
    return f.page[f.at]
  end

  for i = 1, #q.entering, 2 do
    line_up(facet(q.entering[i + 1], q.entering[i]))
  end
  while #chosen < 2 * most do
    if at > #window and not whole then
      if #seen >= most + 1000 then
        return chosen, seen, 1
      end
      local found = redis.call("ZRANGE", q.ready, #seen, #seen + most - 1, "WITHSCORES")
      window, at, whole = {}, 1, #found < 2 * most
      for i = 1, #found, 2 do
        local f = facet(found[i], found[i + 1])
        window[#window + 1], seen[#seen + 1] = f, f
      end
    end
    local f = window[at]
    if again[front] and not (f and precedes(f, again[front])) then
      f, front = again[front], front + 1
    else
      at = at + 1
    end
    if not f then
      break
    end
    local message = next_of(f)
    if message then
      bytes = bytes - #message
      if bytes < 0 then
        return chosen, seen, 2
      end
      if f.turn >= q.floor then
        q.early, q.floor = math.min(q.early + 1, q.facets), f.turn
      end
      f.turn, f.taken, f.at = f.turn + 1 / f.weight, f.taken + 1, f.at + 1
      chosen[#chosen + 1], chosen[#chosen + 2] = f.name, message
    end
    if next_of(f) then
      line_up(f)
    else
      f.out, q.facets = true, q.facets - 1
    end
  end
  return chosen, seen, 0
end

-- Takes messages off queue 1 of the call, what is due given back before. keep(q, chosen) holds on
-- to them before they leave their lists, and returns the number of their lease.
-- Returns 0; or 1 when a bound ended the call before it was known whether more can be served, or 2
-- when the next message is more than its bytes. Then 0 when more can be served now, or in how many
-- ms something is due, or -1 for never. Then the number of the lease, or 0; then facet and message
-- in turn.
-- Errors: NOQUEUE when the queue holds nothing and is not registered.
local function take(name, most, bytes, keep)
  local q = open(1)
  if q.closed then
    return missing(q, name)
  end
  local more = due(q, 400 - most) -- The more it takes, the less it gives back.
  if #q.gone + #q.stuck > 0 then
    close(q)
  end
  local chosen, seen, ended = {}, {}, 0
  if not q.paused then
    chosen, seen, ended = choose(q, most, bytes)
  end
  local lease = keep and #chosen > 0 and keep(q, chosen) or 0
  local out, debts = {}, {}
  for _, f in ipairs(seen) do
    if f.taken > 0 then
      redis.call("LTRIM", q.list .. f.name, f.taken, -1)
      q.moved = true
    end
    if f.out then
      out[#out + 1] = f.name
      if f.turn > q.floor then
        debts[#debts + 1], debts[#debts + 2] = f.turn, f.name
      end
    elseif f.taken > 0 then
      q.entering[#q.entering + 1], q.entering[#q.entering + 2] = f.turn, f.name
    end
  end
  if #out > 0 then
    redis.call("ZREM", q.ready, unpack(out))
    q.moved = true
  end
  if #debts > 0 then
    redis.call("ZADD", q.idle, unpack(debts))
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
