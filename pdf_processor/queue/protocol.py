"""Every key and every script of the queue: what stands in Redis, and how it changes.

A task is in exactly one place: waiting, in the list of the worker that took it, delayed,
dead, or done. Each script moves it from one to another in one step. Scripts read the time
from the server, and answer the same when they are repeated because their reply was lost:
the nonce of the delivery tells a repetition from news.
"""

from __future__ import annotations

from dataclasses import dataclass

LETTERS_KEPT = 10_000
"""Dead letters, and likewise invalid payloads; past that the oldest go."""

REMEMBER_SECONDS = 120
"""How long the server knows how a delivery ended, for a settlement whose reply was lost."""


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The names of the keys. The hash tag puts all of them into the waiting list's slot."""

    name: str

    def _key(self, *parts: str) -> str:
        return ":".join((f"{{{self.name}}}", *parts))

    @property
    def waiting(self) -> str:
        """LIST: waiting tasks, pushed by Go on the right."""
        return self.name

    def taken(self, worker: str) -> str:
        """LIST: what one boot of one worker has taken."""
        return self._key("proc", worker)

    @property
    def workers(self) -> str:
        """ZSET: worker → expiry of its lease, ms of the server's clock."""
        return self._key("workers")

    @property
    def running(self) -> str:
        """HASH: task id → `<nonce of the delivery> <worker>`."""
        return self._key("running")

    @property
    def attempts(self) -> str:
        """HASH: task id → `<deliveries started> <deliveries failed>`."""
        return self._key("attempts")

    @property
    def delayed(self) -> str:
        """ZSET: task id, newline, payload → due, ms of the server's clock."""
        return self._key("delayed")

    @property
    def dead(self) -> str:
        """LIST: dead letters, newest first."""
        return self._key("dead")

    @property
    def invalid(self) -> str:
        """LIST: payloads that are no task, newest first."""
        return self._key("invalid")

    @property
    def sweep(self) -> str:
        """STRING: someone looked for lists without a worker less than a minute ago."""
        return self._key("sweep")

    @property
    def events(self) -> str:
        """CHANNEL: every change of a status."""
        return self._key("events")

    def done(self, task_id: str) -> str:
        """STRING: the task succeeded lately."""
        return self._key("done", task_id)

    def cancel(self, task_id: str) -> str:
        """STRING: someone wants the task cancelled."""
        return self._key("cancel", task_id)

    def status(self, task_id: str) -> str:
        """HASH: the status of the task."""
        return self._key("status", task_id)

    def settled(self, nonce: str) -> str:
        """STRING: how this delivery ended, for a while: for whoever asks again."""
        return self._key("settled", nonce)


_NOW = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_COUNTS = """
local function counts(key, id)
  local text = redis.call('HGET', key, id) or ''
  local started, failed = text:match('^(%d+) (%d+)$')
  return tonumber(started or 0), tonumber(failed or 0)
end
local function count(key, id, started, failed)
  if started <= 0 and failed <= 0 then return redis.call('HDEL', key, id) end
  return redis.call('HSET', key, id, string.format('%d %d', started, failed))
end
"""

# --------------------------------------------------------------------------- workers

REGISTER = (
    _NOW
    + """
-- Begin a lease.
-- KEYS[1] workers
-- ARGV[1] worker, [2] length of the lease in ms
redis.call('ZADD', KEYS[1], now() + ARGV[2], ARGV[1])
"""
)

HEARTBEAT = (
    _NOW
    + """
-- Renew a lease, unless somebody has recovered this worker's tasks.
-- KEYS[1] workers
-- ARGV[1] worker, [2] length of the lease in ms
-- returns 1, or 0: no longer registered
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now() + ARGV[2], ARGV[1])
return 1
"""
)

UNREGISTER = """
-- End the lease of a worker that holds nothing any more.
-- KEYS[1] workers, [2] the worker's taken list
-- ARGV[1] worker
-- returns 1, or 0: it still holds something, so the lease must run out
if redis.call('LLEN', KEYS[2]) > 0 then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

RECOVER = """
-- Unregister a worker and put what it took back to the head of the queue, in its order.
-- KEYS[1] workers, [2] the worker's taken list, [3] waiting
-- ARGV[1] worker, [2] the expiry that was seen ('': not registered)
-- returns how many tasks went back, or -1: the worker gave a sign of life meanwhile
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '') ~= tonumber(ARGV[2]) then return -1 end
redis.call('ZREM', KEYS[1], ARGV[1])
local moved = 0
while redis.call('LMOVE', KEYS[2], KEYS[3], 'RIGHT', 'LEFT') do moved = moved + 1 end
return moved
"""

# ------------------------------------------------------------------------ deliveries

START = (
    _NOW
    + _COUNTS
    + """
-- Ask for the right to work on a task that was taken.
-- KEYS[1] taken list, [2] workers, [3] running, [4] attempts, [5] done, [6] cancel,
--     [7] delayed, [8] settled
-- ARGV[1] payload, [2] task id, [3] nonce, [4] worker, [5] '1' to force, [6] ms to park for,
--     [7] seconds to remember
-- returns {outcome, started, failed}; outcome: started, or why not: done, running, parked
--     (it is forced, and goes on when the run of its double has ended), cancelled, or lost
--     (this worker does not have the task any more)
local payload, id, worker, forced = ARGV[1], ARGV[2], ARGV[4], ARGV[5] == '1'
local token = ARGV[3] .. ' ' .. worker
local before = redis.call('GET', KEYS[8])
if before then return {before, 0, 0} end

local started, failed = counts(KEYS[4], id)
local run = redis.call('HGET', KEYS[3], id)
if run == token then return {'started', started, failed} end
if not redis.call('ZSCORE', KEYS[2], worker) or not redis.call('LPOS', KEYS[1], payload) then
  return {'lost', 0, 0}
end

local function refuse(outcome)
  redis.call('LREM', KEYS[1], 1, payload)
  redis.call('SET', KEYS[8], outcome, 'EX', ARGV[7])
  return {outcome, 0, 0}
end
if not forced and redis.call('EXISTS', KEYS[5]) == 1 then return refuse('done') end
local runner = run and run:match('^%S+ (.*)$')
if runner and redis.call('ZSCORE', KEYS[2], runner) then
  if not forced then return refuse('running') end
  redis.call('ZADD', KEYS[7], now() + ARGV[6], id .. '\\n' .. payload)
  return refuse('parked')
end
if redis.call('DEL', KEYS[6]) == 1 then
  redis.call('HDEL', KEYS[3], id)
  redis.call('HDEL', KEYS[4], id)
  return refuse('cancelled')
end

redis.call('HSET', KEYS[3], id, token)
count(KEYS[4], id, started + 1, failed)
return {'started', started + 1, failed}
"""
)

# What ack, retry, dead and release have in common. Only the nonce in `running` says whose
# the task is. A task that a recoverer has put back, but nobody has started again, can still
# be acknowledged: its work is done, and the copy in the queue will be found done. It cannot
# be put anywhere else: it would be in two places.
_SETTLE = (
    _COUNTS
    + """
-- KEYS[1] taken list, [2] running, [3] attempts, [4] settled; the last is status
-- ARGV[1] payload, [2] task id, [3] nonce and worker, [4] seconds to remember; the last is the
--     status to write and publish, as JSON, or ''
-- returns 1 (and more, where it says so), or 0: the lease was lost, nothing was written
local payload, id, token = ARGV[1], ARGV[2], ARGV[3]
local function say()
  if ARGV[#ARGV] == '' then return end
  local status, fields = cjson.decode(ARGV[#ARGV]), {}
  for name, value in pairs(status.fields) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  local written = redis.pcall('HSET', KEYS[#KEYS], unpack(fields))
  if type(written) == 'table' then return end
  redis.call('EXPIRE', KEYS[#KEYS], status.ttl)
  redis.call('PUBLISH', status.channel, status.event)
end
local function settle(verb, move)
  local before = redis.call('GET', KEYS[4])
  if before then return before == verb and 1 or 0 end
  if redis.call('HGET', KEYS[2], id) ~= token then return 0 end
  local held = redis.call('LREM', KEYS[1], 1, payload)
  if held == 0 and verb ~= 'ack' then return 0 end
  local more = move()
  redis.call('HDEL', KEYS[2], id)
  redis.call('SET', KEYS[4], verb, 'EX', ARGV[4])
  say()
  return 1 + (more or 0)
end
"""
)

ACK = (
    _SETTLE
    + """
-- The task is done.
-- KEYS[5] done, [6] cancel
-- ARGV[5] seconds to know the task as done
return settle('ack', function()
  redis.call('HDEL', KEYS[3], id)
  redis.call('SET', KEYS[5], '1', 'EX', ARGV[5])
  redis.call('DEL', KEYS[6])
end)
"""
)

RETRY = (
    _NOW
    + _SETTLE
    + """
-- The attempt failed; the task waits for its next.
-- KEYS[5] delayed
-- ARGV[5] ms to wait
return settle('retry', function()
  local started, failed = counts(KEYS[3], id)
  count(KEYS[3], id, started, failed + 1)
  redis.call('ZADD', KEYS[5], now() + ARGV[5], id .. '\\n' .. payload)
end)
"""
)

DEAD = (
    _SETTLE
    + """
-- The task failed for good.
-- KEYS[5] dead, [6] cancel
-- ARGV[5] the dead letter, [6] how many are kept
-- returns 1 + how many old letters had to go
return settle('dead', function()
  redis.call('HDEL', KEYS[3], id)
  redis.call('DEL', KEYS[6])
  local length = redis.call('LPUSH', KEYS[5], ARGV[5])
  redis.call('LTRIM', KEYS[5], 0, ARGV[6] - 1)
  return math.max(0, length - ARGV[6])
end)
"""
)

DROP = (
    _SETTLE
    + """
-- The task was cancelled while it ran.
-- KEYS[5] cancel
return settle('drop', function()
  redis.call('HDEL', KEYS[3], id)
  redis.call('DEL', KEYS[5])
end)
"""
)

RELEASE = (
    _SETTLE
    + """
-- The task is given up unharmed: to the head of the queue, and this delivery never was.
-- KEYS[5] waiting
return settle('release', function()
  local started, failed = counts(KEYS[3], id)
  count(KEYS[3], id, started - 1, failed)
  redis.call('LPUSH', KEYS[5], payload)
end)
"""
)

REJECT = """
-- What was taken is no task.
-- KEYS[1] taken list, [2] invalid, [3] settled
-- ARGV[1] payload, [2] the letter, [3] how many are kept, [4] seconds to remember
-- returns 1 + how many old letters had to go, or 0: this worker does not have it any more
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
local length = redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], 0, ARGV[3] - 1)
redis.call('SET', KEYS[3], 'invalid', 'EX', ARGV[4])
return 1 + math.max(0, length - ARGV[3])
"""

# ------------------------------------------------------------- delayed and dead tasks

CANCEL = """
-- Wish a task cancelled, unless it has ended. One that is delayed is gone at once: a wish
-- would outlive it, and meet the next task of its name.
-- KEYS[1] running, [2] status, [3] cancel, [4] delayed, [5] attempts
-- ARGV[1] task id, [2] seconds to keep the wish
-- returns runs: its worker will hear of it; waits: it will not start; or ended
local state = redis.pcall('HGET', KEYS[2], 'state')
local ended = {SUCCEEDED = true, DEAD = true, CANCELLED = true}
local answer = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 and 'runs'
  or type(state) == 'string' and ended[state] and 'ended' or 'waits'
if answer == 'waits' then
  for _, member in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    if member:sub(1, #ARGV[1] + 1) == ARGV[1] .. '\\n' then
      redis.call('ZREM', KEYS[4], member)
      redis.call('HDEL', KEYS[5], ARGV[1])
      return answer
    end
  end
end
if answer ~= 'ended' then redis.call('SET', KEYS[3], '1', 'EX', ARGV[2]) end
return answer
"""

FORWARD = (
    _NOW
    + """
-- Put what is due back into the queue, the longest due first.
-- KEYS[1] delayed, [2] waiting
-- ARGV[1] how many at most
-- returns how many
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  redis.call('RPUSH', KEYS[2], (member:gsub('^[^\\n]*\\n', '', 1)))
  redis.call('ZREM', KEYS[1], member)
end
return #due
"""
)

REVIVE = """
-- A dead letter goes back to the queue and begins a new life.
-- KEYS[1] dead, [2] waiting, [3] attempts, [4] done, [5] cancel
-- ARGV[1] the dead letter, [2] payload, [3] task id
-- returns 1, or 0: the letter is gone
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[3], ARGV[3])
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('RPUSH', KEYS[2], ARGV[2])
return 1
"""

# ---------------------------------------------------------------------------- status

WRITE_STATUS = """
-- Write statuses and publish them, but only those whose writer still has a say: the first of
-- a delivery while its worker has the task; its later ones while the status says that it runs
-- under that worker; `QUEUED` for a
-- task that nobody works on and that is not done; `CANCELLED` for one that nobody works on
-- and that has not ended. A key that is no hash is left alone.
-- KEYS[n] status of the n-th; the last is running
-- ARGV[1] seconds to keep, [2] channel, [3] field names; then for each five: `begin`,
--     `change`, `queue` or `cancel`; worker; task id; event; values
-- returns how many were written
local names, written = cjson.decode(ARGV[3]), 0
local runs = {WAITING_FOR_KEY = true, DOWNLOADING = true, PROCESSING = true}
local over = {DEAD = true, CANCELLED = true, QUEUED = true}
local idle = {QUEUED = true, RETRYING = true}
for n = 1, #KEYS - 1 do
  local key, mode, worker = KEYS[n], ARGV[5 * n - 1], ARGV[5 * n]
  local run = redis.call('HGET', KEYS[#KEYS], ARGV[5 * n + 1])
  local old = redis.pcall('HMGET', key, 'state', 'worker')
  local state = old[1]
  local may = (mode == 'begin' and run and run:match('^%S+ (.*)$') == worker)
    or (mode ~= 'begin' and not state)
    or (mode == 'change' and runs[state] and old[2] == worker)
    or (mode == 'queue' and over[state])
    or (mode == 'cancel' and idle[state])
  if may and not old.err then
    local fields = {}
    for i, value in ipairs(cjson.decode(ARGV[5 * n + 3])) do
      fields[2 * i - 1], fields[2 * i] = names[i], value
    end
    redis.call('HSET', key, unpack(fields))
    redis.call('EXPIRE', key, ARGV[1])
    redis.call('PUBLISH', ARGV[2], ARGV[5 * n + 2])
    written = written + 1
  end
end
return written
"""
