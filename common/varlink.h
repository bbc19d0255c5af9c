/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_VARLINK_H
#define LIVESNAP_COMMON_VARLINK_H

/*
 * One end of a Varlink connection: JSON objects, each ended by a NUL byte, over an AF_UNIX stream, with descriptors
 * beside them (SCM_RIGHTS). This knows messages, not what is in them.
 *
 * Which message a descriptor belongs to: the kernel hands out at most one sendmsg()'s descriptors with one recvmsg(),
 * and the bytes they came with are the last ones of that read, though bytes sent before may precede them. So a
 * descriptor belongs to the message that the last byte read with it is part of. A sender keeps to the other half of
 * the bargain by never putting bytes of two messages into a sendmsg() that carries descriptors. It may attach them to
 * any of the message's bytes.
 *
 * Everything a peer can grow has a limit. An end that receives something malformed, or more than the limits, is done
 * for: there is no way to find the next message, so the caller must free it. No function blocks, and none is
 * thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <jansson.h>

/* A request is small: 64 descriptors do not need more to describe them. A reply may list many snapshots. */
#define VARLINK_REQUEST_BYTES_MAX ((size_t) 1 << 20)
#define VARLINK_REPLY_BYTES_MAX ((size_t) 16 << 20)
#define VARLINK_FDS_MAX 64u
/* JSON values in a request: parsed, each takes up to 50 times its text (`[[],[],[]...`). */
#define VARLINK_REQUEST_VALUES_MAX 16384u
/* What may wait to be sent, apart from one message of the greatest size. */
#define VARLINK_QUEUE_BYTES_MAX ((size_t) 1 << 20)
#define VARLINK_QUEUE_MESSAGES_MAX 1024u
#define VARLINK_QUEUE_FDS_MAX 256u

/* Errors that the interface org.varlink.service defines for every service. */
#define VARLINK_ERROR_INTERFACE_NOT_FOUND "org.varlink.service.InterfaceNotFound"
#define VARLINK_ERROR_METHOD_NOT_FOUND "org.varlink.service.MethodNotFound"
#define VARLINK_ERROR_METHOD_NOT_IMPLEMENTED "org.varlink.service.MethodNotImplemented"
#define VARLINK_ERROR_INVALID_PARAMETER "org.varlink.service.InvalidParameter"
#define VARLINK_ERROR_PERMISSION_DENIED "org.varlink.service.PermissionDenied"
#define VARLINK_ERROR_EXPECTED_MORE "org.varlink.service.ExpectedMore"

enum varlink_role {
        VARLINK_CLIENT, /* sends requests, receives replies */
        VARLINK_SERVER, /* the other way round */
};

struct varlink;

/** struct varlink_message - one message received; owns its object and those of its descriptors that are not -1 */
struct varlink_message {
        json_t *json; /* an object */
        unsigned n_fds;
        int fds[VARLINK_FDS_MAX];
};

/** varlink_message_deinit() - release what is left in a message; one that is all zero is allowed */
void varlink_message_deinit(struct varlink_message *message);

/** varlink_message_take_fd() - move descriptor @index to the caller; -1 where there is none or it was taken before */
int varlink_message_take_fd(struct varlink_message *message, json_int_t index);

/**
 * varlink_new() - make an end of a connection
 * @fd: a connected stream socket, consumed on success; it need not be non-blocking
 * @role: chooses the limits
 *
 * Return: 0 or -ENOMEM.
 */
int varlink_new(int fd, enum varlink_role role, struct varlink **ret);

/** varlink_free() - close the connection and every descriptor that waits in it; NULL is allowed */
void varlink_free(struct varlink *varlink);

/**
 * varlink_set_receive() - have the socket read by a function of the caller's own
 * @receive: like recvmsg() with MSG_DONTWAIT and MSG_CMSG_CLOEXEC, but it returns -errno
 * @data: passed to @receive
 */
void varlink_set_receive(struct varlink *varlink, ssize_t (*receive)(void *data, int socket, struct msghdr *header),
                         void *data);

/** varlink_get_fd() - the socket, borrowed */
int varlink_get_fd(const struct varlink *varlink);

/** varlink_get_events() - what to poll the socket for: POLLIN, and POLLOUT while something waits to be sent */
short varlink_get_events(const struct varlink *varlink);

/**
 * varlink_receive() - the next message
 * @ret: filled when the return is 1; the caller deinits it
 *
 * Reads the socket only when no whole message is buffered, so what a peer can make us hold is one message and one read.
 * For the same reason a readable socket does not tell whether there is a message: call this until it returns 0.
 *
 * Return: 1 a message, 0 none yet, -EPIPE the peer has ended its side, -EBADMSG not a JSON object, -EMSGSIZE over a
 * limit, -ETOOMANYREFS descriptors were lost (more than VARLINK_FDS_MAX at once, or we have none free), or another
 * -errno.
 */
int varlink_receive(struct varlink *varlink, struct varlink_message *ret);

/**
 * varlink_send() - queue a message
 * @json: an object, borrowed
 * @fds: @n_fds descriptors that go with it; consumed whatever the return
 *
 * Sends nothing: varlink_flush() does. Return: 0, -EMSGSIZE where the message is over a limit (the connection stays
 * usable), -ENOBUFS where the queue is full, or -ENOMEM.
 */
int varlink_send(struct varlink *varlink, json_t *json, const int *fds, unsigned n_fds);

/** varlink_flush() - send what the socket takes. Return: 0, also when some is left, or -errno (-EPIPE: no peer). */
int varlink_flush(struct varlink *varlink);

/** varlink_queued_bytes() - what waits to be sent */
size_t varlink_queued_bytes(const struct varlink *varlink);

/** varlink_memory_bytes() - size of all buffers, for accounting */
size_t varlink_memory_bytes(const struct varlink *varlink);

/** varlink_held_fds() - descriptors received and not yet handed out, and those queued, for accounting */
unsigned varlink_held_fds(const struct varlink *varlink);

#endif
