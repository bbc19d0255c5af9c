/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_PARAMETERS_H
#define LIVESNAP_DAEMON_PARAMETERS_H

/*
 * Reads the members of a JSON object that a peer sent into variables. The objects of the interface are read by tables:
 *
 *         const char *domain;
 *         uint64_t max_rate = 0;
 *         const struct parameter parameters[] = {
 *                 { "domain", .required = true, .string = &domain },
 *                 { "max_rate", .number = &max_rate },
 *                 {},
 *         };
 */

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

/**
 * struct parameter - one member
 * @name: NULL ends the table
 * @required: false for a nullable one: the variable keeps its value where the member is absent or null
 *
 * Exactly one of the pointers is set: it is where the value goes, and says of which type it has to be.
 */
struct parameter {
        const char *name;
        bool required;
        const char **string; /* borrowed from the object */
        uint64_t *number;    /* not negative */
        bool *boolean;
        json_t **array;  /* borrowed */
        json_t **object; /* borrowed */
};

/**
 * parameters_read() - read an object
 * @object: borrowed; anything but an object counts as one without members
 *
 * Return: NULL, or the name of a member that is missing, of the wrong type or not in the table; borrowed from @object
 * or from the table.
 */
const char *parameters_read(json_t *object, const struct parameter *parameters);

#endif
