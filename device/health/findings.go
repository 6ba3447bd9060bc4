package health

import (
	"fmt"

	"pangaea/device/nvml"
)

// recoveryActions are what a driver from 570 on asks for, by NVML's number; 0 is nothing.
func recoveryAction(action uint64) string {
	names := map[uint64]string{
		1: "reset the GPU", 2: "reboot the host", 3: "drain peer-to-peer traffic", 4: "drain peer-to-peer traffic and reset the GPU",
		5: "recover the IMEX domain", 6: "reset the GPU's PCIe bus", 7: "reboot the system",
	}
	name, ok := names[action]
	if !ok {
		return fmt.Sprintf("recovery action %d", action)
	}
	return name
}

// examine lists what is wrong by the readings, worst first. Throttling and heat are apart: they count only when they last.
func examine(v nvml.Vitals, maxUncorrectable uint64) []string {
	var found []string
	for _, f := range v.Failures {
		found = append(found, f.Error())
	}
	if v.RemapFailed.Value {
		found = append(found, "row remapping failed: replace the GPU")
	}
	if v.RemapPending.Value {
		found = append(found, "row remap pending: reset the GPU")
	}
	if v.RetirePending.Value {
		found = append(found, "page retirement pending: reset the GPU")
	}
	if v.Uncorrectable.Value > maxUncorrectable {
		found = append(found, fmt.Sprintf("%d uncorrectable ECC errors: reset the GPU", v.Uncorrectable.Value))
	}
	if v.RecoveryAction.OK && v.RecoveryAction.Value != 0 {
		found = append(found, "the driver asks: "+recoveryAction(v.RecoveryAction.Value))
	}
	return found
}

// strain is heat or a brake that the hardware puts on.
func strain(v nvml.Vitals) string {
	switch {
	case v.Temperature.OK && v.SlowdownAt.OK && v.SlowdownAt.Value > 0 && v.Temperature.Value >= v.SlowdownAt.Value:
		return fmt.Sprintf("too hot: at %d °C it slows down", v.SlowdownAt.Value)
	case v.ClockReasons.Value&nvml.HWThermalSlowdown != 0:
		return "slowed down by heat"
	case v.ClockReasons.Value&nvml.HWPowerBrake != 0:
		return "slowed down by its power supply"
	}
	return ""
}
