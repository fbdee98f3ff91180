package main

import (
	_ "tailscale.com/derp"
	_ "tailscale.com/derp/derphttp"
	_ "tailscale.com/types/key"
)

func main() {}
