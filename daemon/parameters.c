/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/parameters.h"

#include <string.h>

static bool read_value(json_t *value, const struct parameter *parameter) {
        if (parameter->string && json_is_string(value))
                *parameter->string = json_string_value(value);
        else if (parameter->number && json_is_integer(value) && json_integer_value(value) >= 0)
                *parameter->number = (uint64_t) json_integer_value(value);
        else if (parameter->boolean && json_is_boolean(value))
                *parameter->boolean = json_is_true(value);
        else if (parameter->array && json_is_array(value))
                *parameter->array = value;
        else if (parameter->object && json_is_object(value))
                *parameter->object = value;
        else
                return false;
        return true;
}

static bool is_known(const char *name, const struct parameter *parameters) {
        for (; parameters->name; parameters++)
                if (!strcmp(parameters->name, name))
                        return true;
        return false;
}

const char *parameters_read(json_t *object, const struct parameter *parameters) {
        const char *name;
        json_t *value;

        json_object_foreach (object, name, value)
                if (!is_known(name, parameters))
                        return name;
        for (; parameters->name; parameters++) {
                value = json_object_get(object, parameters->name);
                if (!value || json_is_null(value)) {
                        if (parameters->required)
                                return parameters->name;
                } else if (!read_value(value, parameters)) {
                        return parameters->name;
                }
        }
        return NULL;
}
