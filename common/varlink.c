/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/varlink.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"

#define INPUT_BYTES_MIN ((size_t) 4096)
#define INPUT_BYTES_KEPT ((size_t) 64 << 10) /* a larger buffer is given back once it is empty */

/* A message on its way out. */
struct varlink_output {
        STAILQ_ENTRY(varlink_output) link;
        char *text;
        size_t bytes; /* with the NUL */
        size_t sent;
        unsigned n_fds;
        int fds[]; /* owned until they are sent */
};

struct varlink_input_fd {
        uint64_t position; /* in the stream, of the byte it came with */
        int fd;
};

struct varlink {
        int fd; /* owned */
        ssize_t (*receive)(void *data, int socket, struct msghdr *header);
        void *receive_data;
        size_t receive_max;
        size_t send_max;
        size_t values_max; /* 0: none */

        /* What is received and not handed out is input[begin..end). */
        char *input;
        size_t input_size;
        size_t begin;
        size_t end;
        size_t scanned;          /* no NUL before this */
        uint64_t input_position; /* in the stream, of input[begin] */
        /* In the order of arrival. The half of them may belong to the message that is not complete, see fill(). */
        struct varlink_input_fd input_fds[2 * VARLINK_FDS_MAX];
        unsigned n_input_fds;

        STAILQ_HEAD(, varlink_output) outputs;
        unsigned n_outputs;
        size_t output_bytes;
        unsigned output_fds;
};

static void close_all(const int *fds, unsigned n_fds) {
        for (unsigned i = 0; i < n_fds; i++)
                if (fds[i] >= 0)
                        close(fds[i]);
}

void varlink_message_deinit(struct varlink_message *message) {
        json_decref(message->json);
        message->json = NULL;
        close_all(message->fds, message->n_fds);
        message->n_fds = 0;
}

int varlink_message_take_fd(struct varlink_message *message, json_int_t index) {
        if (index < 0 || index >= message->n_fds)
                return -1;
        return steal_fd(&message->fds[index]);
}

static ssize_t receive_plainly(void *data, int socket, struct msghdr *header) {
        ssize_t n;

        do
                n = recvmsg(socket, header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

int varlink_new(int fd, enum varlink_role role, struct varlink **ret) {
        struct varlink *varlink = calloc(1, sizeof(*varlink));

        if (!varlink)
                return -ENOMEM;
        varlink->fd = fd;
        varlink->receive = receive_plainly;
        STAILQ_INIT(&varlink->outputs);
        if (role == VARLINK_SERVER) {
                varlink->receive_max = VARLINK_REQUEST_BYTES_MAX;
                varlink->values_max = VARLINK_REQUEST_VALUES_MAX;
                varlink->send_max = VARLINK_REPLY_BYTES_MAX;
        } else {
                varlink->receive_max = VARLINK_REPLY_BYTES_MAX;
                varlink->send_max = VARLINK_REQUEST_BYTES_MAX;
        }
        *ret = varlink;
        return 0;
}

static void output_free(struct varlink_output *output) {
        if (!output)
                return;
        close_all(output->fds, output->n_fds);
        free(output->text);
        free(output);
}

static void pop_output(struct varlink *varlink) {
        struct varlink_output *output = STAILQ_FIRST(&varlink->outputs);

        STAILQ_REMOVE_HEAD(&varlink->outputs, link);
        varlink->n_outputs--;
        varlink->output_bytes -= output->bytes;
        varlink->output_fds -= output->n_fds;
        output_free(output);
}

void varlink_set_receive(struct varlink *varlink, ssize_t (*receive)(void *data, int socket, struct msghdr *header),
                         void *data) {
        varlink->receive = receive;
        varlink->receive_data = data;
}

void varlink_free(struct varlink *varlink) {
        if (!varlink)
                return;
        while (!STAILQ_EMPTY(&varlink->outputs))
                pop_output(varlink);
        for (unsigned i = 0; i < varlink->n_input_fds; i++)
                close(varlink->input_fds[i].fd);
        free(varlink->input);
        close(varlink->fd);
        free(varlink);
}

int varlink_get_fd(const struct varlink *varlink) {
        return varlink->fd;
}

short varlink_get_events(const struct varlink *varlink) {
        return (short) (STAILQ_EMPTY(&varlink->outputs) ? POLLIN : POLLIN | POLLOUT);
}

size_t varlink_queued_bytes(const struct varlink *varlink) {
        return varlink->output_bytes;
}

size_t varlink_memory_bytes(const struct varlink *varlink) {
        return sizeof(*varlink) + varlink->input_size + varlink->output_bytes +
               varlink->n_outputs * sizeof(struct varlink_output);
}

unsigned varlink_held_fds(const struct varlink *varlink) {
        return varlink->n_input_fds + varlink->output_fds;
}

/* Drop the first @bytes of the input. */
static void consume(struct varlink *varlink, size_t bytes) {
        varlink->begin += bytes;
        varlink->input_position += bytes;
        varlink->scanned = varlink->begin;
        if (varlink->begin < varlink->end)
                return;
        varlink->begin = varlink->end = varlink->scanned = 0;
        if (varlink->input_size > INPUT_BYTES_KEPT) {
                free(STEAL_PTR(varlink->input));
                varlink->input_size = 0;
        }
}

/* No exact count, since strings are not told apart, but never less than there are: each value but the first follows
 * one. */
static size_t count_values(const char *text, size_t bytes) {
        size_t n = 1;

        for (size_t i = 0; i < bytes; i++)
                n += text[i] == '[' || text[i] == '{' || text[i] == ',' || text[i] == ':';
        return n;
}

/* Return: 1 and a message where a whole one is buffered, 0 where none is, or -errno. */
static int take_message(struct varlink *varlink, struct varlink_message *ret) {
        struct varlink_message message = {};
        const char *text, *nul = NULL;
        size_t bytes;
        unsigned n_fds = 0;

        if (varlink->begin == varlink->end)
                return 0; /* there may be no buffer to point into */
        text = varlink->input + varlink->begin;
        if (varlink->scanned < varlink->end)
                nul = memchr(varlink->input + varlink->scanned, 0, varlink->end - varlink->scanned);
        bytes = nul ? (size_t) (nul - text) : varlink->end - varlink->begin;
        if (bytes > varlink->receive_max)
                return -EMSGSIZE;
        if (!nul) {
                varlink->scanned = varlink->end;
                return 0;
        }

        while (n_fds < varlink->n_input_fds && varlink->input_fds[n_fds].position <= varlink->input_position + bytes)
                n_fds++;
        if (n_fds > VARLINK_FDS_MAX)
                return -EMSGSIZE;
        if (varlink->values_max && count_values(text, bytes) > varlink->values_max)
                return -EMSGSIZE;
        message.json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(message.json)) {
                json_decref(message.json);
                return -EBADMSG;
        }
        for (unsigned i = 0; i < n_fds; i++)
                message.fds[i] = varlink->input_fds[i].fd;
        message.n_fds = n_fds;
        varlink->n_input_fds -= n_fds;
        memmove(varlink->input_fds, varlink->input_fds + n_fds, varlink->n_input_fds * sizeof(*varlink->input_fds));
        consume(varlink, bytes + 1);
        *ret = message;
        return 1;
}

/* Make room behind the input, for one byte more than the longest message at the most. */
static int reserve(struct varlink *varlink) {
        size_t size_max = varlink->receive_max + 1, size;
        char *input;

        if (varlink->begin > 0) {
                memmove(varlink->input, varlink->input + varlink->begin, varlink->end - varlink->begin);
                varlink->scanned -= varlink->begin;
                varlink->end -= varlink->begin;
                varlink->begin = 0;
        }
        if (varlink->end < varlink->input_size)
                return 0;
        size = varlink->input_size ? 2 * varlink->input_size : INPUT_BYTES_MIN;
        if (size > size_max)
                size = size_max;
        input = realloc(varlink->input, size);
        if (!input)
                return -ENOMEM;
        varlink->input = input;
        varlink->input_size = size;
        return 0;
}

/* Keep the descriptors that came with the byte at @position; there is room for them, see fill(). */
static void keep_fds(struct varlink *varlink, struct msghdr *header, uint64_t position) {
        for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
                size_t n;

                if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        struct varlink_input_fd *input_fd = &varlink->input_fds[varlink->n_input_fds++];

                        memcpy(&input_fd->fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
                        input_fd->position = position;
                }
        }
}

/*
 * One read. It is called only when no whole message is buffered, so all descriptors that are held belong to the one
 * that is not complete; they are at most VARLINK_FDS_MAX, and so are those of one read, for the control buffer is no
 * larger.
 *
 * Return: 1 something was read, 0 there is nothing, or -errno.
 */
static int fill(struct varlink *varlink) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(VARLINK_FDS_MAX * sizeof(int))];
        } control;
        struct iovec vector;
        struct msghdr header = { .msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = CMSG_LEN(VARLINK_FDS_MAX * sizeof(int)) };
        ssize_t n;
        int r;

        if (varlink->n_input_fds > VARLINK_FDS_MAX)
                return -EMSGSIZE;
        r = reserve(varlink);
        if (r < 0)
                return r;
        vector.iov_base = varlink->input + varlink->end;
        vector.iov_len = varlink->input_size - varlink->end;
        n = varlink->receive(varlink->receive_data, varlink->fd, &header);
        if (n < 0)
                return n == -EAGAIN ? 0 : (int) n;
        if (n == 0)
                return -EPIPE;
        keep_fds(varlink, &header, varlink->input_position + (varlink->end - varlink->begin) + (size_t) n - 1);
        varlink->end += (size_t) n;
        /* Of what the kernel dropped nobody can say to whom it belonged. What it did install is kept, and closed with
         * us. */
        return header.msg_flags & MSG_CTRUNC ? -ETOOMANYREFS : 1;
}

int varlink_receive(struct varlink *varlink, struct varlink_message *ret) {
        for (;;) {
                int r = take_message(varlink, ret);

                if (r != 0)
                        return r;
                r = fill(varlink);
                if (r <= 0)
                        return r;
        }
}

/* The text of a message, with its length. Return: 0 or -errno. */
static int format_message(const struct varlink *varlink, json_t *json, char **ret_text, size_t *ret_bytes) {
        CLEANUP_FREE char *text = json_dumps(json, JSON_COMPACT);
        size_t bytes;

        if (!text)
                return -ENOMEM;
        bytes = strlen(text);
        if (bytes > varlink->send_max)
                return -EMSGSIZE;
        *ret_text = STEAL_PTR(text);
        *ret_bytes = bytes + 1;
        return 0;
}

static int queue_message(struct varlink *varlink, json_t *json, const int *fds, unsigned n_fds) {
        CLEANUP_FREE char *text = NULL;
        struct varlink_output *output;
        size_t bytes;
        int r;

        if (n_fds > VARLINK_FDS_MAX)
                return -EMSGSIZE;
        r = format_message(varlink, json, &text, &bytes);
        if (r < 0)
                return r;
        if (varlink->output_bytes + bytes > varlink->send_max + VARLINK_QUEUE_BYTES_MAX ||
            varlink->n_outputs >= VARLINK_QUEUE_MESSAGES_MAX || varlink->output_fds + n_fds > VARLINK_QUEUE_FDS_MAX)
                return -ENOBUFS;
        output = calloc(1, sizeof(*output) + n_fds * sizeof(*output->fds));
        if (!output)
                return -ENOMEM;
        output->text = STEAL_PTR(text);
        output->bytes = bytes;
        output->n_fds = n_fds;
        if (n_fds > 0)
                memcpy(output->fds, fds, n_fds * sizeof(*fds));
        STAILQ_INSERT_TAIL(&varlink->outputs, output, link);
        varlink->n_outputs++;
        varlink->output_bytes += bytes;
        varlink->output_fds += n_fds;
        return 0;
}

int varlink_send(struct varlink *varlink, json_t *json, const int *fds, unsigned n_fds) {
        int r = queue_message(varlink, json, fds, n_fds);

        if (r < 0)
                close_all(fds, n_fds);
        return r;
}

/* One sendmsg(), of bytes of one message only; the descriptors go with its first byte. */
static ssize_t send_some(const struct varlink *varlink, const struct varlink_output *output) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(VARLINK_FDS_MAX * sizeof(int))];
        } control = {};
        struct iovec vector = { .iov_base = output->text + output->sent, .iov_len = output->bytes - output->sent };
        struct msghdr header = { .msg_iov = &vector, .msg_iovlen = 1 };

        if (output->n_fds > 0 && output->sent == 0) {
                size_t fds_bytes = output->n_fds * sizeof(*output->fds);

                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(fds_bytes);
                memcpy(CMSG_DATA(&control.header), output->fds, fds_bytes);
                header.msg_control = &control;
                header.msg_controllen = CMSG_SPACE(fds_bytes);
        }
        return sendmsg(varlink->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int varlink_flush(struct varlink *varlink) {
        struct varlink_output *output;

        while ((output = STAILQ_FIRST(&varlink->outputs))) {
                ssize_t n = send_some(varlink, output);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : -errno;
                if (output->sent == 0) {
                        /* They are with the kernel now, even if the message is not all sent. */
                        close_all(output->fds, output->n_fds);
                        varlink->output_fds -= output->n_fds;
                        output->n_fds = 0;
                }
                output->sent += (size_t) n;
                if (output->sent == output->bytes)
                        pop_output(varlink);
        }
        return 0;
}
