-- Adds a copy of a message that is with this consumer to another queue, and leaves the message as it is.
--
-- KEYS: queue, queue of the copy.
-- ARGV: group, consumer, id, number of its hand-over, the names of fields to drop and the fields to add, each as a number and
-- so many texts, and '1' if the added fields are all of the copy. Returns 1; 0 if it was lost or deleted; -1 if there is no
-- queue for the copy.

return run(function()
    local queue, to = KEYS[1], KEYS[2]
    local id = ARGV[3]
    if not holds(queue, ARGV[1], ARGV[2], id, ARGV[4]) then
        return 0
    end
    local fields = next_fields(queue, id, 5)
    if not fields then
        return 0
    end
    if not call('XADD', to, 'NOMKSTREAM', '*', unpack(fields)) then
        return -1
    end
    return 1
end)
