/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/service.h"

#include <string.h>

#include "common/varlink.h"

static const struct {
        const char *name;
        const char *description;
} interfaces[] = {
        { "org.varlink.service", "# The Varlink Service Interface is provided by every varlink service. It\n"
                                 "# describes the service and the interfaces it implements.\n"
                                 "interface org.varlink.service\n"
                                 "\n"
                                 "# Get a list of all the interfaces a service provides and information\n"
                                 "# about the implementation.\n"
                                 "method GetInfo() -> (\n"
                                 "    vendor: string,\n"
                                 "    product: string,\n"
                                 "    version: string,\n"
                                 "    url: string,\n"
                                 "    interfaces: []string\n"
                                 ")\n"
                                 "\n"
                                 "# Get the description of an interface that is implemented by this service.\n"
                                 "method GetInterfaceDescription(interface: string) -> (description: string)\n"
                                 "\n"
                                 "# The requested interface was not found.\n"
                                 "error InterfaceNotFound (interface: string)\n"
                                 "\n"
                                 "# The requested method was not found\n"
                                 "error MethodNotFound (method: string)\n"
                                 "\n"
                                 "# The interface defines the requested method, but the service does not\n"
                                 "# implement it.\n"
                                 "error MethodNotImplemented (method: string)\n"
                                 "\n"
                                 "# One of the passed parameters is invalid.\n"
                                 "error InvalidParameter (parameter: string)\n"
                                 "\n"
                                 "# Client is denied access\n"
                                 "error PermissionDenied ()\n"
                                 "\n"
                                 "# Method is expected to be called with 'more' set to true, but wasn't\n"
                                 "error ExpectedMore ()\n" },
        {
                "io.livesnap",
#include "io.livesnap.varlink.inc" /* made of include/io.livesnap.varlink by the build */
        },
};

#define N_INTERFACES (sizeof(interfaces) / sizeof(*interfaces))

const char *service_find_interface(const char *name, size_t len) {
        for (size_t i = 0; i < N_INTERFACES; i++)
                if (strlen(interfaces[i].name) == len && !memcmp(interfaces[i].name, name, len))
                        return interfaces[i].description;
        return NULL;
}

void service_get_info(struct call *call, void *context) {
        static const struct parameter none[] = { {} };
        json_t *names;

        if (call_read(call, none) < 0)
                return;
        names = json_array();
        for (size_t i = 0; i < N_INTERFACES; i++)
                json_array_append_new(names, json_string(interfaces[i].name));
        call_reply(call,
                   json_pack("{s:s, s:s, s:s, s:s, s:o}", "vendor", "livesnap", "product", "livesnapd", "version",
                             LIVESNAP_VERSION, "url", "", "interfaces", names),
                   NULL, 0);
}

void service_get_interface_description(struct call *call, void *context) {
        const char *name, *description;
        const struct parameter parameters[] = {
                { "interface", .required = true, .string = &name },
                {},
        };

        if (call_read(call, parameters) < 0)
                return;
        description = service_find_interface(name, strlen(name));
        if (description)
                call_reply(call, json_pack("{s:s}", "description", description), NULL, 0);
        else
                call_fail_with(call, VARLINK_ERROR_INTERFACE_NOT_FOUND, json_pack("{s:s}", "interface", name));
}
