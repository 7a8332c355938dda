/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PKCS#11 library of simulated tokens and Luna HSMs. It knows no device: each call becomes a message to the driver
 * (vendor_driver.py), which listens at the socket beside this library, /path/luna.sock for /path/luna.so.
 *
 * messages.c talks to the driver and knows what is in the slots, sessions.c has what happens in a session, module.c the
 * other functions and the list of all. For one thread. Layouts and codes are those of PKCS#11 2.40 on Linux.
 */
#ifndef MODULE_H
#define MODULE_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_LONG__ != 8
#error "the messages are those of a machine with 64 bits, the lowest byte first"
#endif

/* Layouts and codes */

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

/* messages.c */

enum { MOST_SLOTS = 128, ACCESS = 16, LONGEST = 8192, TOO_LONG = LONGEST + 1 };

struct slot { byte_t flags; uint32_t insertion; int who; byte_t access[ACCESS]; };

extern struct slot slots[MOST_SLOTS];
extern ulong_t slot_count;
extern char slot_name[64];
extern byte_t packet[LONGEST]; /* to the driver, and from it */
extern size_t length;          /* of the packet in the making, or that came; TOO_LONG: it cannot be sent */

ulong_t connect_driver(void);
ulong_t disconnect_driver(void);
ulong_t look(void);
ulong_t look_at(ulong_t slot);
void begin(ulong_t slot, uint32_t insertion, byte_t command);
void put(const void *data, size_t size);
void put_number(uint32_t number);
ulong_t exchange(void);
ulong_t answer_of(size_t size);
uint32_t number_at(size_t place);

/* sessions.c */

enum { MOST_SESSIONS = 32 };

void forget_everything(void);
ulong_t open_in(ulong_t slot);
ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session);
ulong_t close_session(ulong_t session);
ulong_t close_all_sessions(ulong_t slot);
ulong_t get_session_info(ulong_t session, struct session_info *info);
ulong_t login(ulong_t session, ulong_t user, const byte_t *pin, ulong_t size);
ulong_t logout(ulong_t session);
ulong_t init_pin(ulong_t session, const byte_t *pin, ulong_t size);
ulong_t destroy_object(ulong_t session, ulong_t object);
ulong_t get_attribute_value(ulong_t session, ulong_t object, struct attribute *template, ulong_t count);
ulong_t find_objects_init(ulong_t session, const struct attribute *template, ulong_t count);
ulong_t find_objects(ulong_t session, ulong_t *objects, ulong_t most, ulong_t *count);
ulong_t find_objects_final(ulong_t session);
ulong_t sign_init(ulong_t session, const struct mechanism *mechanism, ulong_t key);
ulong_t sign(ulong_t session, const byte_t *data, ulong_t size, byte_t *signature, ulong_t *signature_size);
ulong_t generate_key_pair(ulong_t session, const struct mechanism *mechanism,
                          const struct attribute *public_template, ulong_t public_count,
                          const struct attribute *private_template, ulong_t private_count,
                          ulong_t *public_key, ulong_t *private_key);

#endif
