/* SPDX-License-Identifier: Apache-2.0 */
/* What happens in a session: logins, objects, signatures. The functions are named as in the specification. */
#include "module.h"
#include <string.h>

enum { SIGNATURE = 64, MOST_FOUND = 64 };

static struct {
    ulong_t slot, flags;
    uint32_t insertion; /* 0: no session */
    int searching, signing;
    uint32_t found[MOST_FOUND], found_count, found_next, key;
} sessions[MOST_SESSIONS];

static int is_open(ulong_t session)
{
    return session && session <= MOST_SESSIONS && sessions[session - 1].insertion;
}

/* A command to the token of a session, by whoever has logged in there. */
static void begin_in(ulong_t session, byte_t command)
{
    ulong_t slot = sessions[session - 1].slot;
    begin(slot, sessions[session - 1].insertion, command);
    put(slots[slot].access, ACCESS);
}

static void put_template(const struct attribute *template, ulong_t count)
{
    if (!template && count)
        length = TOO_LONG;
    for (ulong_t i = 0; i < count && length < TOO_LONG; i++) {
        put_number((uint32_t)template[i].kind);
        put_number((uint32_t)template[i].size);
        put(template[i].value, template[i].size);
    }
}

static void forget_login(ulong_t slot)
{
    slots[slot].who = NOBODY;
    memset(slots[slot].access, 0, ACCESS);
}

void forget_everything(void)
{
    memset(sessions, 0, sizeof sessions);
    for (ulong_t i = 0; i < MOST_SLOTS; i++)
        forget_login(i);
}

ulong_t open_in(ulong_t slot)
{
    ulong_t count = 0;
    for (int i = 0; i < MOST_SESSIONS; i++)
        count += sessions[i].insertion && sessions[i].slot == slot;
    return count;
}

static ulong_t log_out(ulong_t session)
{
    ulong_t slot = sessions[session - 1].slot;
    if (slots[slot].who == NOBODY)
        return USER_NOT_LOGGED_IN;
    begin_in(session, LOGOUT);
    ulong_t code = exchange();
    forget_login(slot);
    return code;
}

ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session)
{
    ulong_t code = look_at(slot);
    (void)application, (void)notify;
    if (code || !session)
        return code ? code : ARGUMENTS_BAD;
    if (!(slots[slot].flags & TOKEN_PRESENT))
        return TOKEN_NOT_PRESENT;
    for (ulong_t i = 0; i < MOST_SESSIONS; i++)
        if (!sessions[i].insertion) {
            memset(&sessions[i], 0, sizeof sessions[i]);
            sessions[i].slot = slot;
            sessions[i].flags = flags;
            sessions[i].insertion = slots[slot].insertion;
            *session = i + 1;
            return OK;
        }
    return SESSION_COUNT;
}

ulong_t close_session(ulong_t session)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (open_in(sessions[session - 1].slot) == 1)
        log_out(session);
    sessions[session - 1].insertion = 0;
    return OK;
}

ulong_t close_all_sessions(ulong_t slot)
{
    for (ulong_t i = 0; i < MOST_SESSIONS; i++)
        if (sessions[i].insertion && sessions[i].slot == slot)
            close_session(i + 1);
    return OK;
}

ulong_t get_session_info(ulong_t session, struct session_info *info)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!info)
        return ARGUMENTS_BAD;
    ulong_t slot = sessions[session - 1].slot, flags = sessions[session - 1].flags, writes = flags & RW_SESSION ? 2 : 0;
    int who = slots[slot].who;
    ulong_t state = who == SECURITY_OFFICER ? 4 : writes + (who == USER);
    *info = (struct session_info){slot, state, flags, 0};
    return OK;
}

ulong_t login(ulong_t session, ulong_t user, const byte_t *pin, ulong_t size)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    ulong_t slot = sessions[session - 1].slot;
    byte_t who = user <= USER ? (byte_t)user : 0xFF;
    if (slots[slot].who != NOBODY)
        return USER_ALREADY_LOGGED_IN;
    begin(slot, sessions[session - 1].insertion, LOGIN);
    put(&who, 1);
    put(pin, size);
    ulong_t code = answer_of(ACCESS);
    if (code)
        return code;
    memcpy(slots[slot].access, packet, ACCESS);
    slots[slot].who = who;
    return OK;
}

ulong_t logout(ulong_t session)
{
    return is_open(session) ? log_out(session) : SESSION_HANDLE_INVALID;
}

ulong_t init_pin(ulong_t session, const byte_t *pin, ulong_t size)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    begin_in(session, INIT_PIN);
    put(pin, size);
    return answer_of(0);
}

ulong_t destroy_object(ulong_t session, ulong_t object)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!(sessions[session - 1].flags & RW_SESSION))
        return SESSION_READ_ONLY;
    begin_in(session, DESTROY_OBJECT);
    put_number((uint32_t)object);
    return answer_of(0);
}

ulong_t get_attribute_value(ulong_t session, ulong_t object, struct attribute *template, ulong_t count)
{
    ulong_t result = OK;
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!template && count)
        return ARGUMENTS_BAD;
    for (ulong_t i = 0; i < count; i++) {
        begin_in(session, GET_ATTRIBUTE);
        put_number((uint32_t)object);
        put_number((uint32_t)template[i].kind);
        ulong_t code = exchange();
        if (!code && template[i].value && template[i].size < length)
            code = BUFFER_TOO_SMALL;
        if (!code && template[i].value)
            memcpy(template[i].value, packet, length);
        template[i].size = code ? ~0UL : length;
        if (code && code != ATTRIBUTE_SENSITIVE && code != ATTRIBUTE_TYPE_INVALID && code != BUFFER_TOO_SMALL)
            return code;
        result = code ? code : result;
    }
    return result;
}

ulong_t find_objects_init(ulong_t session, const struct attribute *template, ulong_t count)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (sessions[session - 1].searching)
        return OPERATION_ACTIVE;
    begin_in(session, FIND_OBJECTS);
    put_template(template, count);
    ulong_t code = exchange();
    if (code)
        return code;
    if (length > sizeof sessions[0].found)
        return DEVICE_ERROR;
    memcpy(sessions[session - 1].found, packet, length);
    sessions[session - 1].found_count = (uint32_t)(length / sizeof(uint32_t));
    sessions[session - 1].found_next = 0;
    sessions[session - 1].searching = 1;
    return OK;
}

ulong_t find_objects(ulong_t session, ulong_t *objects, ulong_t most, ulong_t *count)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!count || (!objects && most))
        return ARGUMENTS_BAD;
    if (!sessions[session - 1].searching)
        return OPERATION_NOT_INITIALIZED;
    for (*count = 0; *count < most && sessions[session - 1].found_next < sessions[session - 1].found_count; ++*count)
        objects[*count] = sessions[session - 1].found[sessions[session - 1].found_next++];
    return OK;
}

ulong_t find_objects_final(ulong_t session)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!sessions[session - 1].searching)
        return OPERATION_NOT_INITIALIZED;
    sessions[session - 1].searching = 0;
    return OK;
}

ulong_t sign_init(ulong_t session, const struct mechanism *mechanism, ulong_t key)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!mechanism)
        return ARGUMENTS_BAD;
    if (mechanism->kind != ECDSA)
        return MECHANISM_INVALID;
    sessions[session - 1].key = (uint32_t)key;
    sessions[session - 1].signing = 1;
    return OK;
}

ulong_t sign(ulong_t session, const byte_t *data, ulong_t size, byte_t *signature, ulong_t *signature_size)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!signature_size)
        return ARGUMENTS_BAD;
    if (!sessions[session - 1].signing)
        return OPERATION_NOT_INITIALIZED;
    ulong_t room = signature ? *signature_size : 0;
    *signature_size = SIGNATURE;
    if (!signature || room < SIGNATURE)
        return signature ? BUFFER_TOO_SMALL : OK;
    sessions[session - 1].signing = 0;
    begin_in(session, SIGN);
    put_number(sessions[session - 1].key);
    put(data, size);
    ulong_t code = answer_of(SIGNATURE);
    if (!code)
        memcpy(signature, packet, SIGNATURE);
    return code;
}

ulong_t generate_key_pair(ulong_t session, const struct mechanism *mechanism,
                          const struct attribute *public_template, ulong_t public_count,
                          const struct attribute *private_template, ulong_t private_count,
                          ulong_t *public_key, ulong_t *private_key)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!mechanism || !public_key || !private_key)
        return ARGUMENTS_BAD;
    if (mechanism->kind != EC_KEY_PAIR_GEN)
        return MECHANISM_INVALID;
    if (!(sessions[session - 1].flags & RW_SESSION))
        return SESSION_READ_ONLY;
    begin_in(session, GENERATE_KEY_PAIR);
    size_t place = length;
    put_number(0);
    put_template(public_template, public_count);
    uint32_t size = (uint32_t)(length - place - sizeof size);
    memcpy(packet + place, &size, sizeof size);
    put_template(private_template, private_count);
    ulong_t code = answer_of(8);
    if (!code)
        *public_key = number_at(0), *private_key = number_at(4);
    return code;
}
