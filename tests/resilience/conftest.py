import asyncio

asyncio.set_event_loop(None)  # else looptime makes a loop for the first test without one, and never closes it
