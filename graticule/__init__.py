"""Where was this photo taken, and how sure can one be?"""
