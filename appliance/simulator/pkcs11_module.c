/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PKCS#11 library of simulated tokens and Luna HSMs. It knows no device: each call becomes a message to the driver
 * (vendor_driver.py), which listens at the socket beside this library, /path/luna.sock for /path/luna.so.
 *
 * A request to the driver is one packet: "L", or "X", a slot, the insertion that is meant (0: whichever) and a command
 * to the device. The answer to "L" is the number of slots, for each its flags in one byte and how often something was
 * put in, and then the slots' name; to "X", a code of PKCS#11 and the device's answer. A command is its number, the
 * length of what follows in two bytes, the highest first, and that. Other numbers have four bytes, the lowest first.
 *
 * For one thread. Layouts are those of PKCS#11 2.40 on Linux.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_LONG__ != 8
#error "the messages are those of a machine with 64 bits, the lowest byte first"
#endif

typedef unsigned long ulong_t;
typedef unsigned char byte_t;

struct version { byte_t major, minor; };
struct info {
    struct version cryptoki;
    byte_t manufacturer[32];
    ulong_t flags;
    byte_t description[32];
    struct version library;
};
struct slot_info { byte_t description[64], manufacturer[32]; ulong_t flags; struct version hardware, firmware; };
struct token_info {
    byte_t label[32], manufacturer[32], model[16], serial[16];
    ulong_t flags, most_sessions, sessions, most_rw_sessions, rw_sessions, longest_pin, shortest_pin, memory[4];
    struct version hardware, firmware;
    byte_t time[16];
};
struct session_info { ulong_t slot, state, flags, device_error; };
struct mechanism { ulong_t kind; void *parameter; ulong_t size; };
struct mechanism_info { ulong_t smallest, largest, flags; };
struct attribute { ulong_t kind; void *value; ulong_t size; };
struct functions { struct version version; ulong_t (*entry[68])(void); };

enum { OK = 0, SLOT_ID_INVALID = 0x03, ARGUMENTS_BAD = 0x07, DEVICE_ERROR = 0x30, DEVICE_REMOVED = 0x32,
       NOT_SUPPORTED = 0x54, MECHANISM_INVALID = 0x70, OPERATION_ACTIVE = 0x90, OPERATION_NOT_INITIALIZED = 0x91,
       SESSION_COUNT = 0xB1, SESSION_HANDLE_INVALID = 0xB3, SESSION_EXISTS = 0xB6, SESSION_READ_ONLY = 0xB5,
       TOKEN_NOT_PRESENT = 0xE0, USER_ALREADY_LOGGED_IN = 0x100, USER_NOT_LOGGED_IN = 0x101,
       BUFFER_TOO_SMALL = 0x150, NOT_INITIALIZED = 0x190, ALREADY_INITIALIZED = 0x191,
       ATTRIBUTE_SENSITIVE = 0x11, ATTRIBUTE_TYPE_INVALID = 0x12 };
enum { TOKEN_PRESENT = 0x01, RW_SESSION = 0x02 };
enum { SECURITY_OFFICER = 0, USER = 1, NOBODY = -1 };
enum { EC_KEY_PAIR_GEN = 0x1040, ECDSA = 0x1041 };
enum { TOKEN_INFO = 0x01, INIT_TOKEN = 0x02, LOGIN = 0x03, LOGOUT = 0x04, INIT_PIN = 0x05, FIND_OBJECTS = 0x10,
       GET_ATTRIBUTE = 0x11, GENERATE_KEY_PAIR = 0x12, SIGN = 0x13, DESTROY_OBJECT = 0x14, FACTORY_RESET = 0x20 };
enum { MOST_SLOTS = 128, MOST_SESSIONS = 32, MOST_FOUND = 64 };
enum { ACCESS = 16, SIGNATURE = 64, LONGEST = 8192, TOO_LONG = LONGEST + 1, ANSWER = 0x80 };

static int driver = -1;
static byte_t packet[LONGEST]; /* to the driver, and from it */
static size_t length;          /* of the packet in the making, or that came; TOO_LONG: it cannot be sent */

static struct { byte_t flags; uint32_t insertion; int who; byte_t access[ACCESS]; } slots[MOST_SLOTS];
static ulong_t slot_count;
static char slot_name[64];

static struct {
    ulong_t slot, flags;
    uint32_t insertion; /* 0: no session */
    int searching, signing;
    uint32_t found[MOST_FOUND], found_count, found_next, key;
} sessions[MOST_SESSIONS];

/* Messages */

static void put(const void *data, size_t size)
{
    if (length == TOO_LONG || size > LONGEST - length || (size && !data)) {
        length = TOO_LONG;
        return;
    }
    if (size)
        memcpy(packet + length, data, size);
    length += size;
}

static void put_number(uint32_t number)
{
    put(&number, sizeof number);
}

static uint32_t number_at(size_t place)
{
    uint32_t number;
    memcpy(&number, packet + place, sizeof number);
    return number;
}

static ulong_t ask(void)
{
    if (driver < 0)
        return NOT_INITIALIZED;
    if (length == TOO_LONG)
        return ARGUMENTS_BAD;
    if (send(driver, packet, length, MSG_NOSIGNAL) != (ssize_t)length)
        return DEVICE_ERROR;
    ssize_t size = recv(driver, packet, sizeof packet, 0);
    length = size > 0 ? (size_t)size : 0;
    return size > 0 ? OK : DEVICE_ERROR;
}

/* What is in the slots now. */
static ulong_t look(void)
{
    length = 0;
    put("L", 1);
    ulong_t code = ask();
    if (code)
        return code;
    slot_count = packet[0];
    size_t names = 1 + 5 * slot_count;
    if (slot_count > MOST_SLOTS || names > length)
        return DEVICE_ERROR;
    for (ulong_t i = 0; i < slot_count; i++) {
        uint32_t insertion = number_at(2 + 5 * i);
        slots[i].flags = packet[1 + 5 * i];
        if (slots[i].insertion != insertion)
            slots[i].who = NOBODY;
        slots[i].insertion = insertion;
    }
    snprintf(slot_name, sizeof slot_name, "%.*s", (int)(length - names), (char *)packet + names);
    return OK;
}

static ulong_t look_at(ulong_t slot)
{
    ulong_t code = look();
    return code ? code : slot < slot_count ? OK : SLOT_ID_INVALID;
}

static const size_t HEAD = 1 + 1 + 4, COMMAND = 3; /* what stands before a command, and at its beginning */

static void begin(ulong_t slot, uint32_t insertion, byte_t command)
{
    byte_t head[] = {'X', (byte_t)slot};
    length = 0;
    put(head, sizeof head);
    put_number(insertion);
    put(&command, 1);
    put("\0", 2); /* the length, by exchange() */
}

/* Send the command; the device's answer is then at `packet`, `length` bytes. */
static ulong_t exchange(void)
{
    size_t size = length - HEAD - COMMAND;
    byte_t command = packet[HEAD];
    packet[HEAD + 1] = (byte_t)(size >> 8);
    packet[HEAD + 2] = (byte_t)size;
    ulong_t code = ask();
    if (code || length < 4)
        return code ? code : DEVICE_ERROR;
    code = number_at(0);
    if (code)
        return code;
    if (length >= 4 + COMMAND + 4 && packet[4] != (command | ANSWER)) {
        code = number_at(4 + COMMAND);
        return code ? code : DEVICE_ERROR;
    }
    if (length < 4 + COMMAND || packet[4] != (command | ANSWER))
        return DEVICE_ERROR;
    length -= 4 + COMMAND;
    memmove(packet, packet + 4 + COMMAND, length);
    return OK;
}

static ulong_t answer_of(size_t size)
{
    ulong_t code = exchange();
    return code ? code : length == size ? OK : DEVICE_ERROR;
}

static void fill(byte_t *field, size_t size, const void *text, size_t given)
{
    memset(field, ' ', size);
    memcpy(field, text, strnlen(text, given));
}

/* Sessions */

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

static void forget_everything(void)
{
    memset(sessions, 0, sizeof sessions);
    for (ulong_t i = 0; i < MOST_SLOTS; i++)
        forget_login(i);
}

static ulong_t open_in(ulong_t slot)
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

/* The functions, by their names in the specification */

static ulong_t unsupported(void)
{
    return NOT_SUPPORTED;
}

static ulong_t initialize(void *arguments)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    Dl_info self;
    (void)arguments;
    if (driver >= 0)
        return ALREADY_INITIALIZED;
    if (!dladdr((void *)(uintptr_t)initialize, &self))
        return DEVICE_ERROR;
    int stem = (int)strlen(self.dli_fname) - (int)strlen(".so");
    if (stem < 0 || (size_t)snprintf(address.sun_path, sizeof address.sun_path, "%.*s.sock", stem, self.dli_fname)
                        >= sizeof address.sun_path)
        return DEVICE_ERROR;
    driver = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (driver < 0)
        return DEVICE_ERROR;
    if (connect(driver, (struct sockaddr *)&address, sizeof address)) {
        close(driver);
        driver = -1;
        return DEVICE_ERROR;
    }
    forget_everything();
    return OK;
}

static ulong_t finalize(void *arguments)
{
    (void)arguments;
    if (driver < 0)
        return NOT_INITIALIZED;
    close(driver);
    driver = -1;
    forget_everything();
    return OK;
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

static ulong_t init_pin(ulong_t session, const byte_t *pin, ulong_t size)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    begin_in(session, INIT_PIN);
    put(pin, size);
    return answer_of(0);
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session)
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

static ulong_t close_session(ulong_t session)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (open_in(sessions[session - 1].slot) == 1)
        log_out(session);
    sessions[session - 1].insertion = 0;
    return OK;
}

static ulong_t close_all_sessions(ulong_t slot)
{
    for (ulong_t i = 0; i < MOST_SESSIONS; i++)
        if (sessions[i].insertion && sessions[i].slot == slot)
            close_session(i + 1);
    return OK;
}

static ulong_t get_session_info(ulong_t session, struct session_info *info)
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

static ulong_t login(ulong_t session, ulong_t user, const byte_t *pin, ulong_t size)
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

static ulong_t logout(ulong_t session)
{
    return is_open(session) ? log_out(session) : SESSION_HANDLE_INVALID;
}

static ulong_t destroy_object(ulong_t session, ulong_t object)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!(sessions[session - 1].flags & RW_SESSION))
        return SESSION_READ_ONLY;
    begin_in(session, DESTROY_OBJECT);
    put_number((uint32_t)object);
    return answer_of(0);
}

static ulong_t get_attribute_value(ulong_t session, ulong_t object, struct attribute *template, ulong_t count)
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

static ulong_t find_objects_init(ulong_t session, const struct attribute *template, ulong_t count)
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

static ulong_t find_objects(ulong_t session, ulong_t *objects, ulong_t most, ulong_t *count)
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

static ulong_t find_objects_final(ulong_t session)
{
    if (!is_open(session))
        return SESSION_HANDLE_INVALID;
    if (!sessions[session - 1].searching)
        return OPERATION_NOT_INITIALIZED;
    sessions[session - 1].searching = 0;
    return OK;
}

static ulong_t sign_init(ulong_t session, const struct mechanism *mechanism, ulong_t key)
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

static ulong_t sign(ulong_t session, const byte_t *data, ulong_t size, byte_t *signature, ulong_t *signature_size)
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

static ulong_t generate_key_pair(ulong_t session, const struct mechanism *mechanism,
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

/* The vendor's own functions, found by their names */

ulong_t CA_FactoryReset(ulong_t slot, ulong_t flags)
{
    ulong_t code = look_at(slot);
    if (code || flags)
        return code ? code : ARGUMENTS_BAD;
    begin(slot, 0, FACTORY_RESET);
    return answer_of(0);
}

ulong_t CA_GetTokenInsertionCount(ulong_t slot, ulong_t *count)
{
    ulong_t code = look_at(slot);
    if (code || !count)
        return code ? code : ARGUMENTS_BAD;
    *count = slots[slot].insertion;
    return OK;
}

ulong_t CA_GetFirmwareVersion(ulong_t slot, ulong_t *major, ulong_t *minor, ulong_t *patch)
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

ulong_t C_GetFunctionList(struct functions **list);

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
