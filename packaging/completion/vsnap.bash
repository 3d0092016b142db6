# Completion of vsnap(1) for bash: commands, options, and the names of pools, volumes and snapshots. Needs
# nothing but bash; source it, or install it as /usr/share/bash-completion/completions/vsnap.
#
# Commands and options are asked of the program (--help), so they are always those it has.

_vsnap_commands() {
  "$_vsnap_program" "$@" --help 2>/dev/null | sed -n '/^Subcommands:/,/^[^ ]/s/^  \([a-z-]\{1,\}\).*/\1/p'
}

_vsnap_options() {
  "$_vsnap_program" "$@" --help 2>/dev/null | sed -n 's/^  *\(-[^ ]*\).*/\1/p' | tr ',' '\n'
}

_vsnap_pools() { "$_vsnap_program" pool list -H -o name 2>/dev/null; }

# POOL/VOLUME and POOL/VOLUME@SNAPSHOT of the pool that the word begins with; before that, the pools.
_vsnap_specs() { # TYPE
  if [[ $_vsnap_word == */* ]]; then
    "$_vsnap_program" ls -H -o name -t "$1" "${_vsnap_word%%/*}" 2>/dev/null
  else
    _vsnap_pools | sed 's|$|/|'
  fi
}

# The words that may stand at the place of the next argument, one a line; "FILES" and "DIRS" stand for paths.
_vsnap_candidates() { # COMMAND NUMBER-OF-ARGUMENTS-BEFORE
  case $1:$2 in
    'pool create':0) ;;
    'pool create':* | 'pool attach':* | 'pool add':1 | 'catalog dump':1) echo FILES ;;
    'pool add':0 | 'pool detach':0 | 'pool status':0 | 'pool destroy':0) _vsnap_pools ;;
    'host invite':0 | 'host list':0 | 'host revoke':0) _vsnap_pools ;;
    'lock ls':0) _vsnap_pools ;;
    'lock break':0) _vsnap_specs volume ;;
    'lock break':1) "$_vsnap_program" host list -H -o name "${_vsnap_arguments[0]%%/*}" 2>/dev/null ;;
    'host revoke':1) "$_vsnap_program" host list -H -o name "${_vsnap_arguments[0]}" 2>/dev/null ;;
    check:0 | 'catalog dump':0 | mount:0 | top:0 | upgrade:0) _vsnap_pools ;;
    mount:1) echo DIRS ;;
    umount:0) _vsnap_pools; echo DIRS ;;
    create:0 | adopt:1) _vsnap_pools | sed 's|$|/|' ;;
    adopt:0) echo FILES ;;
    ls:0 | df:0) _vsnap_pools; [[ $_vsnap_word != */* ]] || _vsnap_specs volume ;;
    info:0 | tree:0) _vsnap_pools; [[ $_vsnap_word != */* ]] || _vsnap_specs all ;;
    resize:0 | flatten:0 | release:0) _vsnap_specs volume ;;
    snapshot:* | preserve:0) _vsnap_specs volume | sed 's|[^/]$|&@|' ;;
    rollback:0 | clone:0 | wait:0 | split:0 | refresh:0) _vsnap_specs snapshot ;;
    hold:* | release-hold:*) _vsnap_specs snapshot ;;
    set:0) _vsnap_specs volume ;;
    set:*) printf '%s\n' snapshot-limit= on-full=error on-full=pause on-full=drop-oldest ;;
    get:0) _vsnap_pools; [[ $_vsnap_word != */* ]] || _vsnap_specs volume ;;
    get:*) printf '%s\n' snapshot-limit on-full ;;
    'copy pause':0 | 'copy resume':0 | 'copy limit':0) _vsnap_specs all ;;
    rename:0 | map:0 | diff:0 | diff:1 | rm:*) _vsnap_specs all; [[ $_vsnap_word != [./~]* ]] || echo FILES ;;
    unmap:0) _vsnap_specs all; [[ $_vsnap_word != /* ]] || compgen -G '/dev/loop[0-9]*' ;;
    help:0) _vsnap_commands ;;
    help:1) _vsnap_commands "${_vsnap_arguments[0]}" ;;
  esac
}

_vsnap() {
  local _vsnap_program=${COMP_WORDS[0]} _vsnap_word before command='' previous='' word offered
  local -a words _vsnap_arguments=()
  # Readline may break words at '@' and '='; a name is everything since the last blank. What it takes for the
  # word, $2, is what it will replace.
  before=${COMP_LINE:0:COMP_POINT}
  _vsnap_word=${before##*[[:space:]]}
  read -ra words <<<"${before%"$_vsnap_word"}"
  local kept=${_vsnap_word%"$2"}
  COMPREPLY=()

  for word in "${words[@]:1}"; do
    case $previous:$word in
      --size:* | --to:* | --bwlimit:* | --freeze-limit:* | --qga:* | --sector-size:* | --timeout:* | --listen:* | --lease:* | --fence:* | --only:* | --expires:* | --name:* | --member:* | --changed:* | -t:* | -o:* | -s:*) previous='' ;; # the value of an option
      *:-*) previous=$word ;;
      *)
        previous=''
        if [[ -z $command || $command == @(pool|catalog|copy|host|lock) ]]; then
          command+=${command:+ }$word
        else
          _vsnap_arguments+=("$word")
        fi
        ;;
    esac
  done

  case $previous in
    --size | --bwlimit | --freeze-limit | --timeout | --listen | --lease | --fence | --only | --expires | --name) return ;;
    --to | --qga | --member) offered=FILES ;;
    --sector-size) offered=$'512\n1024\n2048\n4096' ;;
    -t) offered=$'volume\nsnapshot\nall' ;;
    -o) [[ $command == mount ]] || return; offered=$'allow_other\ndegraded\nthreads=\ncache=\ndirect=on\ndirect=off\nio_uring\ndebug' ;;
    -s) return ;;
    --changed) offered=$'keep\ndrop-snapshots' ;;
    *)
      if [[ $_vsnap_word == -* ]]; then
        # shellcheck disable=SC2086  # "pool create" is two words
        offered=$(_vsnap_options $command)
      elif [[ -z $command || $command == @(pool|catalog|copy|host|lock) ]]; then
        # shellcheck disable=SC2086
        offered=$(_vsnap_commands $command)
      else
        offered=$(_vsnap_candidates "$command" "${#_vsnap_arguments[@]}")
      fi
      ;;
  esac

  while read -r word; do
    case $word in
      FILES | DIRS)
        compopt -o filenames 2>/dev/null
        [[ $word == FILES ]] && offered=$(compgen -f -- "$2") || offered=$(compgen -d -- "$2")
        [[ -z $offered ]] || mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY <<<"$offered"
        ;;
      '') ;;
      "$_vsnap_word"*) COMPREPLY+=("${word#"$kept"}") ;;
    esac
  done <<<"$offered"
  # More of the name follows these, so no blank.
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/@=] ]]; then compopt -o nospace 2>/dev/null; fi
}

complete -F _vsnap vsnap
