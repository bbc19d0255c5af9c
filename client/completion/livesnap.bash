# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bash completion of livesnap(1). Sourced, or found by its name where bash-completion looks for it.
#
# It knows no commands and no options: these are read from the help of the program that is on the command line. What the
# help calls DOMAIN, DOMAIN/NAME, REGION, JOB, PID, PATH or DIR, or lists as a|b, is completed as such, wherever it
# stands. Domains, snapshots, regions and jobs are asked of the daemon.

# Sets words to the words of the command line up to the cursor. Bash splits them at the : and @ that names may have.
_livesnap_get_words() {
    local rest=${COMP_LINE:0:COMP_POINT} trimmed word i
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        trimmed=${rest#"${rest%%[![:space:]]*}"}
        # What is behind the cursor does not count.
        [[ $trimmed == "$word"* ]] || word=$trimmed
        if ((i > 0)) && [[ -n $rest && $trimmed == "$rest" ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${trimmed#"$word"}
    done
}

# A daemon that does not answer must not keep the user waiting.
_livesnap_ask() {
    local socket=()
    [[ -z $socket_path ]] || socket=(--socket "$socket_path")
    timeout 5 "$program" "$@" "${socket[@]}" --json 2>/dev/null
}

# The values of a key in JSON. They are names, without quotes and brackets in them, or numbers.
_livesnap_pick() {
    grep -oE "\"$1\":(\"[^\"]*\"|[0-9]+)" | cut -d : -f 2- | tr -d '"'
}

# Of the snapshot on the command line, else of all domains.
_livesnap_list_regions() {
    case ${arguments[0]-} in
    */*) _livesnap_ask show "${arguments[0]}" ;;
    *) _livesnap_ask domains ;;
    esac | grep -oE '"regions":\[[^]]*\]' | _livesnap_pick name | sort -u
}

# _livesnap_list KIND: what can stand for it, one a line
_livesnap_list() {
    case $1 in
    DOMAIN) _livesnap_ask domains | sed 's/"regions":\[[^]]*\]//g' | _livesnap_pick name ;;
    DOMAIN/*) _livesnap_ask list | _livesnap_pick snapshot ;;
    NAME-OF-PARENT) [[ -z ${arguments[0]-} ]] || _livesnap_ask list "${arguments[0]}" | _livesnap_pick snapshot | cut -d / -f 2 ;;
    REGION) _livesnap_list_regions ;;
    JOB) _livesnap_ask jobs | _livesnap_pick job ;;
    PID) (cd /proc && printf '%s\n' [0-9]*) ;;
    *"|"*) tr '|' '\n' <<<"$1" ;;
    esac
}

# _livesnap_complete KIND CURRENT: fills COMPREPLY
_livesnap_complete() {
    local prefix="" candidate
    case $1 in
    PATH | FILE) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$2") && return ;;
    DIR) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$2") && return ;;
    esac
    # Bash replaces only what is behind the last character at which it splits words; an @ is replaced too.
    [[ $2 != *["$COMP_WORDBREAKS"]* ]] || prefix=${2%"${2##*["$COMP_WORDBREAKS"]}"}
    prefix=${prefix%@}
    while read -r candidate; do
        [[ $candidate != "$2"* ]] || COMPREPLY+=("${candidate#"$prefix"}")
    done
}

# The options in a help, one a line, with what the help calls their values.
_livesnap_list_options() {
    sed -nE 's/^  (--[a-z-]+)( ([A-Z/]+|[a-z]+(\|[a-z]+)+))? .*/\1 \3/p' <<<"$1"
}

# What the help calls the value of an option; status 1 where it has none.
_livesnap_get_value_kind() {
    local kind
    kind=$(_livesnap_list_options "$1" | sed -n "s/^$2 //p")
    case $2 in
    --domain) kind=DOMAIN ;;
    --parent) kind=NAME-OF-PARENT ;;
    esac
    [[ -n $kind ]] && echo "$kind"
}

# What the help calls the argument of this number, counted from 0.
_livesnap_get_argument_kind() {
    sed -nE "1{s/^Usage: livesnap [a-z-]+//; s/ --[a-z-]+ [A-Z]+//g; s/ *\[OPTION\.\.\.\]//; s/[][]//g; p}" <<<"$1" |
        awk -v n="$2" '{ print $(n + 1) }'
}

_livesnap() {
    local words=() arguments=() program socket_path="" command="" help word kind current i
    _livesnap_get_words
    program=${words[0]}
    [[ $program != "~/"* ]] || program=$HOME/${program#"~/"}
    current=${words[-1]}
    help=$("$program" --help 2>/dev/null)
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word=${words[i]}
        if [[ $word == --socket=* ]]; then
            socket_path=${word#*=}
        elif [[ $word == --*=* ]]; then
            :
        elif [[ $word == -* ]]; then
            kind=$(_livesnap_get_value_kind "$help" "$word") || continue
            if ((i == ${#words[@]} - 2)); then
                _livesnap_complete "$kind" "$current" < <(_livesnap_list "$kind")
                return
            fi
            i=$((i + 1))
            [[ $word != --socket ]] || socket_path=${words[i]}
        elif [[ -z $command ]]; then
            command=$word
            help=$("$program" "$command" --help 2>/dev/null)
        else
            arguments+=("$word")
        fi
    done
    if [[ $current == --*=* ]]; then
        kind=$(_livesnap_get_value_kind "$help" "${current%%=*}") || return
        _livesnap_complete "$kind" "${current#*=}" < <(_livesnap_list "$kind")
    elif [[ $current == -* ]]; then
        _livesnap_complete option "$current" < <(_livesnap_list_options "$help" | cut -d ' ' -f 1)
    elif [[ -z $command ]]; then
        _livesnap_complete command "$current" < <(sed -nE '/^Commands:/,/^$/s/^  ([a-z][a-z-]*) .*/\1/p' <<<"$help")
    else
        kind=$(_livesnap_get_argument_kind "$help" "${#arguments[@]}")
        _livesnap_complete "$kind" "$current" < <(_livesnap_list "$kind")
    fi
}

complete -F _livesnap livesnap
