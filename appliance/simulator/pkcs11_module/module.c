/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that need no session, named as in the specification; the vendor's own; the list of all. */
#define _GNU_SOURCE
#include "module.h"
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

static ulong_t unsupported(void)
{
    return NOT_SUPPORTED;
}

static ulong_t initialize(void *arguments)
{
    (void)arguments;
    ulong_t code = connect_driver();
    if (!code)
        forget_everything();
    return code;
}

static ulong_t finalize(void *arguments)
{
    (void)arguments;
    ulong_t code = disconnect_driver();
    if (!code)
        forget_everything();
    return code;
}

static void fill(byte_t *field, size_t size, const void *text, size_t given)
{
    memset(field, ' ', size);
    memcpy(field, text, strnlen(text, given));
}

static ulong_t get_info(struct info *info)
{
    if (!info)
        return ARGUMENTS_BAD;
    memset(info, 0, sizeof *info);
    info->cryptoki = (struct version){2, 40};
    fill(info->manufacturer, sizeof info->manufacturer, "appliance-console", 32);
    fill(info->description, sizeof info->description, "Simulated tokens", 32);
    return OK;
}

static ulong_t get_slot_list(byte_t present, ulong_t *list, ulong_t *count)
{
    ulong_t found = 0, code = look();
    if (code || !count)
        return code ? code : ARGUMENTS_BAD;
    for (ulong_t i = 0; i < slot_count; i++) {
        if (present && !(slots[i].flags & TOKEN_PRESENT))
            continue;
        if (list && found < *count)
            list[found] = i;
        found++;
    }
    code = list && found > *count ? BUFFER_TOO_SMALL : OK;
    *count = found;
    return code;
}

static ulong_t get_slot_info(ulong_t slot, struct slot_info *info)
{
    ulong_t code = look_at(slot);
    if (code || !info)
        return code ? code : ARGUMENTS_BAD;
    memset(info, 0, sizeof *info);
    fill(info->description, sizeof info->description, slot_name, sizeof slot_name);
    fill(info->manufacturer, sizeof info->manufacturer, "appliance-console", 32);
    info->flags = slots[slot].flags;
    return OK;
}

static ulong_t token_info(ulong_t slot, struct token_info *info, byte_t *patch)
{
    const ulong_t unknown = ~0UL; /* CK_UNAVAILABLE_INFORMATION */
    ulong_t code = look_at(slot);
    if (code || !info)
        return code ? code : ARGUMENTS_BAD;
    begin(slot, 0, TOKEN_INFO);
    code = answer_of(64 + 4 + 5);
    if (code)
        return code;
    memset(info, 0, sizeof *info);
    fill(info->label, 32, packet, 32);
    fill(info->manufacturer, 32, "appliance-console", 32);
    fill(info->model, 16, packet + 32, 16);
    fill(info->serial, 16, packet + 48, 16);
    info->flags = number_at(64);
    info->shortest_pin = packet[68];
    info->longest_pin = packet[69];
    info->firmware = (struct version){packet[70], packet[71]};
    *patch = packet[72];
    info->most_sessions = info->most_rw_sessions = MOST_SESSIONS;
    info->sessions = info->rw_sessions = unknown;
    for (int i = 0; i < 4; i++)
        info->memory[i] = unknown;
    return OK;
}

static ulong_t get_token_info(ulong_t slot, struct token_info *info)
{
    byte_t patch;
    return token_info(slot, info, &patch);
}

static ulong_t get_mechanism_list(ulong_t slot, ulong_t *list, ulong_t *count)
{
    ulong_t code = look_at(slot);
    if (!code && !count)
        return ARGUMENTS_BAD;
    if (code || (list && *count < 2))
        return code ? code : BUFFER_TOO_SMALL;
    if (list)
        list[0] = EC_KEY_PAIR_GEN, list[1] = ECDSA;
    *count = 2;
    return OK;
}

static ulong_t get_mechanism_info(ulong_t slot, ulong_t kind, struct mechanism_info *info)
{
    const ulong_t hardware = 0x1, signs = 0x800, generates = 0x10000;
    const ulong_t prime_field = 0x100000, named_curve = 0x800000, not_compressed = 0x1000000;
    (void)slot;
    if (kind != EC_KEY_PAIR_GEN && kind != ECDSA)
        return MECHANISM_INVALID;
    if (!info)
        return ARGUMENTS_BAD;
    *info = (struct mechanism_info){256, 256, hardware | prime_field | named_curve | not_compressed};
    info->flags |= kind == ECDSA ? signs : generates;
    return OK;
}

static ulong_t init_token(ulong_t slot, const byte_t *pin, ulong_t size, const byte_t *label)
{
    ulong_t code = look_at(slot);
    if (code || open_in(slot))
        return code ? code : SESSION_EXISTS;
    begin(slot, 0, INIT_TOKEN);
    put(label, 32);
    put(pin, size);
    return answer_of(0);
}

/* The vendor's own functions, found by their names */

EXPORTED ulong_t CA_FactoryReset(ulong_t slot, ulong_t flags)
{
    ulong_t code = look_at(slot);
    if (code || flags)
        return code ? code : ARGUMENTS_BAD;
    begin(slot, 0, FACTORY_RESET);
    return answer_of(0);
}

EXPORTED ulong_t CA_GetTokenInsertionCount(ulong_t slot, ulong_t *count)
{
    ulong_t code = look_at(slot);
    if (code || !count)
        return code ? code : ARGUMENTS_BAD;
    *count = slots[slot].insertion;
    return OK;
}

EXPORTED ulong_t CA_GetFirmwareVersion(ulong_t slot, ulong_t *major, ulong_t *minor, ulong_t *patch)
{
    struct token_info info;
    byte_t last;
    if (!major || !minor || !patch)
        return ARGUMENTS_BAD;
    ulong_t code = token_info(slot, &info, &last);
    if (!code)
        *major = info.firmware.major, *minor = info.firmware.minor, *patch = last;
    return code;
}

EXPORTED ulong_t C_GetFunctionList(struct functions **list);

#define ENTRY(function) ((ulong_t(*)(void))(uintptr_t)(function))

ulong_t C_GetFunctionList(struct functions **list)
{
    static struct functions all = {.version = {2, 40}};
    if (!list)
        return ARGUMENTS_BAD;
    for (int i = 0; i < 68; i++)
        all.entry[i] = unsupported;
    all.entry[0] = ENTRY(initialize);
    all.entry[1] = ENTRY(finalize);
    all.entry[2] = ENTRY(get_info);
    all.entry[3] = ENTRY(C_GetFunctionList);
    all.entry[4] = ENTRY(get_slot_list);
    all.entry[5] = ENTRY(get_slot_info);
    all.entry[6] = ENTRY(get_token_info);
    all.entry[7] = ENTRY(get_mechanism_list);
    all.entry[8] = ENTRY(get_mechanism_info);
    all.entry[9] = ENTRY(init_token);
    all.entry[10] = ENTRY(init_pin);
    all.entry[12] = ENTRY(open_session);
    all.entry[13] = ENTRY(close_session);
    all.entry[14] = ENTRY(close_all_sessions);
    all.entry[15] = ENTRY(get_session_info);
    all.entry[18] = ENTRY(login);
    all.entry[19] = ENTRY(logout);
    all.entry[22] = ENTRY(destroy_object);
    all.entry[24] = ENTRY(get_attribute_value);
    all.entry[26] = ENTRY(find_objects_init);
    all.entry[27] = ENTRY(find_objects);
    all.entry[28] = ENTRY(find_objects_final);
    all.entry[42] = ENTRY(sign_init);
    all.entry[43] = ENTRY(sign);
    all.entry[59] = ENTRY(generate_key_pair);
    *list = &all;
    return OK;
}
