#!/bin/sh
# nvidia-cuda-mps-control, simulated. -f is the daemon; without it, commands come on the standard input.
dir=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -f ]; then
	echo 100 >"$dir/percentage"
	echo $$ >"$dir/nvidia-cuda-mps-control.pid"
	read -r forever <>"$dir/hold"
	exit
fi
if ! kill -0 "$(cat "$dir/nvidia-cuda-mps-control.pid")" 2>/dev/null; then
	echo "Cannot find MPS control daemon process"
	exit 1
fi
while read -r command value rest; do
	echo "$command $value $rest" | sed 's/ *$//' >>"$dir/asked"
	behaviour=$(cat "$dir/behaviour")
	case "$behaviour" in
	hang) exec sleep 3600 ;;
	garbage) printf 'flubber\033[2J'; continue ;;
	"refuse $value") echo "Invalid device"; exit 1 ;;
	esac
	case "$command" in
	set_default_active_thread_percentage) echo "$value" >"$dir/percentage" ;;
	get_default_active_thread_percentage) echo "$(cat "$dir/percentage").0" ;;
	get_server_list) cat "$dir/servers" ;;
	esac
done
