/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PKCS#11 module like a Luna client's: SoftHSM underneath, the vendor's functions on top, and faults on demand.
 *
 * The folder $VENDOR_MODULE holds what it is told and what it remembers, one value a file:
 *   fault-FUNCTION   what FUNCTION does instead of its work: "hang", "crash", or a hexadecimal code that it returns
 *   after-FUNCTION   the same, once its work is done
 *   absent           the token is not in its slot
 *   serial           the decimal serial number that stands for SoftHSM's
 *   slot             the slot's description
 *   removable        the slot is marked as one whose token comes and goes
 *   flags            hexadecimal flags that the token has besides its own
 *   insertions       how often the token was put in
 *   idle             C_InitToken does nothing, and says that it did
 *   so-pin           with which CA_FactoryReset empties SoftHSM's token
 *   zeroized         it was reset and not initialised since
 *   helper           start a process that does not end by itself, and write its number here
 *   calls            every function that was called, one a line
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef unsigned char byte_t;

struct version { byte_t major, minor; };
struct slot_info { byte_t description[64], manufacturer[32]; ulong_t flags; struct version hardware, firmware; };
struct token_info {
    byte_t label[32], manufacturer[32], model[16], serial[16];
    ulong_t flags, numbers[10];
    struct version hardware, firmware;
    byte_t time[16];
};
struct functions { struct version version; void *entry[68]; };

enum { INITIALIZE = 0, FINALIZE = 1, GET_SLOT_LIST = 4, GET_SLOT_INFO = 5, GET_TOKEN_INFO = 6, INIT_TOKEN = 9,
       OPEN_SESSION = 12, LOGIN = 18 };
enum { OK = 0, TOKEN_NOT_PRESENT = 0xE0 };
enum { REMOVABLE_DEVICE = 0x2, USER_PIN_INITIALIZED = 0x8, TOKEN_INITIALIZED = 0x400 };

static struct functions *under, ours;

static const char *place(const char *prefix, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s%s", getenv("VENDOR_MODULE"), prefix, name);
    return path;
}

static int told(const char *prefix, const char *name, char *value, int size)
{
    FILE *file = fopen(place(prefix, name), "r");
    if (!file)
        return 0;
    if (!fgets(value, size, file))
        value[0] = 0;
    value[strcspn(value, "\n")] = 0;
    fclose(file);
    return 1;
}

static ulong_t obey(const char *prefix, const char *name)
{
    char fault[64];
    if (!told(prefix, name, fault, sizeof fault))
        return OK;
    if (!strcmp(fault, "hang"))
        for (;;)
            pause();
    if (!strcmp(fault, "crash"))
        *(volatile int *)0 = 0;
    return strtoul(fault, NULL, 16);
}

static ulong_t begin(const char *name)
{
    FILE *file = fopen(place("", "calls"), "a");
    if (file) {
        fprintf(file, "%s\n", name);
        fclose(file);
    }
    return obey("fault-", name);
}

static int is(const char *name)
{
    return access(place("", name), F_OK) == 0;
}

static void fill(byte_t *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, strlen(text) < size ? strlen(text) : size);
}

static void start_helper(void)
{
    pid_t child = fork();
    if (!child)
        for (;;)
            pause();
    FILE *file = fopen(place("", "helper"), "w");
    fprintf(file, "%d", child);
    fclose(file);
}

static ulong_t finalize(void *arguments)
{
    ulong_t code = begin("C_Finalize");
    return code ? code : ((ulong_t(*)(void *))under->entry[FINALIZE])(arguments);
}

static ulong_t initialize(void *arguments)
{
    ulong_t code = begin("C_Initialize");
    if (is("helper"))
        start_helper();
    return code ? code : ((ulong_t(*)(void *))under->entry[INITIALIZE])(arguments);
}

static ulong_t under_token_info(ulong_t slot, struct token_info *info)
{
    return ((ulong_t(*)(ulong_t, struct token_info *))under->entry[GET_TOKEN_INFO])(slot, info);
}

/* SoftHSM always has one more slot, with an empty token that waits to be initialised. */
static ulong_t get_slot_list(byte_t present, ulong_t *slots, ulong_t *count)
{
    ulong_t all[64], number = 64, kept = 0;
    struct token_info info;
    ulong_t code = begin("C_GetSlotList");
    if (!code)
        code = ((ulong_t(*)(byte_t, ulong_t *, ulong_t *))under->entry[GET_SLOT_LIST])(present, all, &number);
    if (code)
        return code;
    for (ulong_t i = 0; i < number && !is("absent"); i++)
        if (under_token_info(all[i], &info) == OK && info.flags & TOKEN_INITIALIZED)
            slots[kept++] = all[i];
    *count = kept;
    return OK;
}

static ulong_t get_slot_info(ulong_t slot, struct slot_info *info)
{
    char text[64] = "Luna UHD Slot";
    ulong_t code = begin("C_GetSlotInfo");
    if (!code)
        code = ((ulong_t(*)(ulong_t, struct slot_info *))under->entry[GET_SLOT_INFO])(slot, info);
    told("", "slot", text, sizeof text);
    fill(info->description, sizeof info->description, text);
    if (is("removable"))
        info->flags |= REMOVABLE_DEVICE;
    return code;
}

static ulong_t get_token_info(ulong_t slot, struct token_info *info)
{
    char serial[64], flags[64];
    ulong_t code = begin("C_GetTokenInfo");
    if (!code)
        code = is("absent") ? TOKEN_NOT_PRESENT : under_token_info(slot, info);
    if (code)
        return code;
    if (told("", "serial", serial, sizeof serial))
        fill(info->serial, sizeof info->serial, serial);
    if (is("zeroized"))
        info->flags &= ~(ulong_t)(USER_PIN_INITIALIZED | TOKEN_INITIALIZED);
    if (told("", "flags", flags, sizeof flags))
        info->flags |= strtoul(flags, NULL, 16);
    return OK;
}

static ulong_t under_init_token(ulong_t slot, const char *pin, ulong_t size, byte_t *label)
{
    return ((ulong_t(*)(ulong_t, const char *, ulong_t, byte_t *))under->entry[INIT_TOKEN])(slot, pin, size, label);
}

static ulong_t init_token(ulong_t slot, const char *pin, ulong_t size, byte_t *label)
{
    ulong_t code = begin("C_InitToken");
    if (!code && !is("idle"))
        code = under_init_token(slot, pin, size, label);
    if (!code)
        unlink(place("", "zeroized"));
    return code ? code : obey("after-", "C_InitToken");
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session)
{
    ulong_t code = begin("C_OpenSession");
    return code ? code : ((ulong_t(*)(ulong_t, ulong_t, void *, void *, ulong_t *))under->entry[OPEN_SESSION])(
        slot, flags, application, notify, session);
}

static ulong_t login(ulong_t session, ulong_t user, const char *pin, ulong_t size)
{
    ulong_t code = begin("C_Login");
    if (!code)
        code = ((ulong_t(*)(ulong_t, ulong_t, const char *, ulong_t))under->entry[LOGIN])(session, user, pin, size);
    return code ? code : obey("after-", "C_Login");
}

ulong_t CA_FactoryReset(ulong_t slot, ulong_t flags)
{
    char pin[64] = "";
    byte_t label[32];
    ulong_t code = begin(flags ? "CA_FactoryReset with flags" : "CA_FactoryReset");
    if (code)
        return code;
    if (is("absent"))
        return TOKEN_NOT_PRESENT;
    told("", "so-pin", pin, sizeof pin);
    fill(label, sizeof label, "");
    code = under_init_token(slot, pin, strlen(pin), label);
    if (code)
        return code;
    fclose(fopen(place("", "zeroized"), "w"));
    return obey("after-", "CA_FactoryReset");
}

ulong_t CA_GetTokenInsertionCount(ulong_t slot, ulong_t *count)
{
    char text[64] = "1";
    ulong_t code = begin("CA_GetTokenInsertionCount");
    (void)slot;
    told("", "insertions", text, sizeof text);
    *count = strtoul(text, NULL, 10);
    return code;
}

ulong_t CA_GetFirmwareVersion(ulong_t slot, ulong_t *major, ulong_t *minor, ulong_t *patch)
{
    (void)slot;
    *major = 6, *minor = 24, *patch = 3;
    return begin("CA_GetFirmwareVersion");
}

ulong_t C_GetFunctionList(struct functions **list)
{
    void *library = dlopen(SOFTHSM, RTLD_NOW | RTLD_LOCAL);
    ulong_t (*get)(struct functions **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
    if (!get || get(&under))
        return 0x05;
    ours = *under;
    ours.entry[INITIALIZE] = initialize;
    ours.entry[FINALIZE] = finalize;
    ours.entry[GET_SLOT_LIST] = get_slot_list;
    ours.entry[GET_SLOT_INFO] = get_slot_info;
    ours.entry[GET_TOKEN_INFO] = get_token_info;
    ours.entry[INIT_TOKEN] = init_token;
    ours.entry[OPEN_SESSION] = open_session;
    ours.entry[LOGIN] = login;
    *list = &ours;
    return OK;
}
