-- Gives a message back as if it had never been taken: the next look for ended leases finds it, and the hand-over is taken off
-- the count, so that the count goes on telling of dead workers alone.
--
-- KEYS: queue.
-- ARGV: group, consumer, id, number of its hand-over, the consumer of what was given back, lease in ms.
-- Returns 1, or 0 if it was lost.
--
-- It keeps its place and is not copied. A consumer of its own has it, so that the one who gave it back can be removed.

return run(function()
    local queue, group, consumer, id, deliveries = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
    if not holds(queue, group, consumer, id, deliveries) then
        return 0
    end
    local before = math.max(deliveries - 1, 0)
    call('XCLAIM', queue, group, ARGV[5], 0, id, 'IDLE', ARGV[6], 'RETRYCOUNT', before, 'JUSTID')
    return 1
end)
