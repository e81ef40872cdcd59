-- Moves a message that is with this consumer to the dead letters, in one step. Their queue is made if it is not there.
--
-- KEYS: queue, queue of the dead letters.
-- ARGV: group, consumer, id, number of its hand-over, the names of fields to drop and the fields to add, each as a number and
-- so many texts, and '1' if the added fields are all of the dead letter: an entry that can't be read is written anew.
-- Returns 1, or 0 if it was lost or deleted.

return run(function()
    local queue, dead = KEYS[1], KEYS[2]
    local group, consumer, id = ARGV[1], ARGV[2], ARGV[3]
    if not holds(queue, group, consumer, id, ARGV[4]) then
        return 0
    end
    local fields = next_fields(queue, id, 5)
    if not fields then
        return 0
    end
    call('XADD', dead, '*', unpack(fields))
    -- From the beginning, so that it has all dead letters.
    local made = redis.pcall('XGROUP', 'CREATE', dead, group, '0')
    if made.err and string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
        fail(made)
    end
    forget(queue, group, id)
    return 1
end)
