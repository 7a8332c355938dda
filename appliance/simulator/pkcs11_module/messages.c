/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages to the driver, and what it says is in the slots.
 *
 * A request to the driver is one packet: "L", or "X", a slot, the insertion that is meant (0: whichever) and a command
 * to the device. The answer to "L" is the number of slots, for each its flags in one byte and how often something was
 * put in, and then the slots' name; to "X", a code of PKCS#11 and the device's answer. A command is its number, the
 * length of what follows in two bytes, the highest first, and that. Other numbers have four bytes, the lowest first.
 */
#define _GNU_SOURCE
#include "module.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER = 0x80 }; /* what an answer adds to the number of its command */

struct slot slots[MOST_SLOTS];
ulong_t slot_count;
char slot_name[64];
byte_t packet[LONGEST];
size_t length;

static int driver = -1;

ulong_t connect_driver(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    Dl_info self;
    if (driver >= 0)
        return ALREADY_INITIALIZED;
    if (!dladdr((void *)(uintptr_t)connect_driver, &self))
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
    return OK;
}

ulong_t disconnect_driver(void)
{
    if (driver < 0)
        return NOT_INITIALIZED;
    close(driver);
    driver = -1;
    return OK;
}

void put(const void *data, size_t size)
{
    if (length == TOO_LONG || size > LONGEST - length || (size && !data)) {
        length = TOO_LONG;
        return;
    }
    if (size)
        memcpy(packet + length, data, size);
    length += size;
}

void put_number(uint32_t number)
{
    put(&number, sizeof number);
}

uint32_t number_at(size_t place)
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
ulong_t look(void)
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

ulong_t look_at(ulong_t slot)
{
    ulong_t code = look();
    return code ? code : slot < slot_count ? OK : SLOT_ID_INVALID;
}

static const size_t HEAD = 1 + 1 + 4, COMMAND = 3; /* what stands before a command, and at its beginning */

void begin(ulong_t slot, uint32_t insertion, byte_t command)
{
    byte_t head[] = {'X', (byte_t)slot};
    length = 0;
    put(head, sizeof head);
    put_number(insertion);
    put(&command, 1);
    put("\0", 2); /* the length, by exchange() */
}

/* Send the command; the device's answer is then at `packet`, `length` bytes. */
ulong_t exchange(void)
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

ulong_t answer_of(size_t size)
{
    ulong_t code = exchange();
    return code ? code : length == size ? OK : DEVICE_ERROR;
}
