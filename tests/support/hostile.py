"""A text that would control a terminal, and the characters with which it would."""

import re

# set the title and clear the screen; C1; backspaces; a carriage return; bidirectional text
HOSTILE = "\x1b]0;X\x07\x1b[2J \x9b31m \x08\x08 \rfine \u202etxt.exe \u2066 \u200f \u2028 \x7f end"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
