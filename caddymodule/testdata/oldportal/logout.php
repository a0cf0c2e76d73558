<?php
// Ends the session, as the manual says to.

require __DIR__ . '/clients.php';

$_SESSION = [];
setcookie(session_name(), '', ['expires' => 1, 'path' => '/', 'httponly' => true]);
session_destroy();
page('Good-bye', '');
