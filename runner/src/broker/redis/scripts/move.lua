-- Moves a message that no consumer has to another queue, in one step.
--
-- KEYS: queue, queue to move it to.
-- ARGV: group, lease in ms, id, the names of fields to drop and the fields to add, each as a number and so many texts, and '1'
-- if the added fields are all of it. Returns 1; 0 if somebody has it or it is gone; -1 if there is no queue to move it to.

return run(function()
    local queue, to, group, id = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
    if is_held(queue, group, id, ARGV[2]) then
        return 0
    end
    -- Also one that is added anew as a whole has to be there.
    local fields = fields_of(queue, id) and next_fields(queue, id, 4)
    if not fields then
        return 0
    end
    if not call('XADD', to, 'NOMKSTREAM', '*', unpack(fields)) then
        return -1
    end
    forget(queue, group, id)
    return 1
end)
